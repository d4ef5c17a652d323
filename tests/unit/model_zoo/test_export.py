"""Torch modules to graphs: they agree with torch, hold their card, and what is wrong is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from unsettled_norms import unsettle

from model_zoo.architectures.catalogue import InputPreset
from model_zoo.card import METADATA_KEY, Card, CostCard, ProvenanceCard, TaskCard
from model_zoo.errors import ExportError
from model_zoo.export import export_model
from model_zoo.graph import GraphSession, random_images, write_graph
from model_zoo.registry import BuiltModel, build_model


def task(size: int, channels: int = 3, classes: int = 5) -> TaskCard:
    names = tuple(f"class {number}" for number in range(classes))
    return TaskCard.model_validate({"height": size, "width": size, "channels": channels, "classes": names})


def build(name: str, bound: TaskCard) -> BuiltModel:
    built = build_model(name, classes=len(bound.classes), channels=bound.channels)
    unsettle(built.module)
    return built


@pytest.mark.parametrize(
    ("name", "bound"), [("digits_cnn_m", task(8, 1)), ("resnet9", task(40)), ("digits_cnn_xs", task(12))]
)
def test_own_networks_agree_with_torch_at_any_task_size(name: str, bound: TaskCard) -> None:
    built = build(name, bound)
    exported = export_model(built, bound)
    assert exported.agreement.max_logit_difference < 1e-3
    assert exported.cost.params == sum(parameter.numel() for parameter in built.module.parameters())
    assert exported.input.height == built.preset.height
    session = GraphSession(exported.graph)
    assert session.logits(random_images(bound, 7)).shape == (7, 5)


def test_activations_in_place_are_given_back_as_they_were() -> None:
    network = nn.Sequential(nn.ReLU6(inplace=True), nn.ReLU(), nn.Flatten(), nn.Linear(192, 5)).eval()
    preset = InputPreset(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    export_model(BuiltModel(module=network, architecture="x", arguments={}, preset=preset), task(8))
    assert [network[0].inplace, network[1].inplace] == [True, False]


def test_the_card_travels_inside_and_no_path_does(tmp_path: Path) -> None:
    bound = task(8, 1)
    exported = export_model(build("digits_cnn_xs", bound), bound)
    card = Card(
        name="tiny",
        architecture="digits_cnn_xs",
        task=bound,
        input=exported.input,
        cost=CostCard(flops=exported.cost.flops, macs=exported.cost.macs, params=exported.cost.params, tool="test"),
        agreement=exported.agreement,
        provenance=ProvenanceCard(weights="random"),
        files={"model.onnx": "0" * 64},
    )
    write_graph(exported.graph, card, tmp_path / "model.onnx")
    write_graph(onnx.load(tmp_path / "model.onnx"), card, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    held = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    assert [Card.from_json(text, "graph") for text in held] == [card.model_copy(update={"files": {}})]
    assert b"site-packages" not in (tmp_path / "model.onnx").read_bytes()
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


class _Odd(nn.Module):
    """Gives logits that are wrong in one way."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.linear = nn.Linear(3, 5)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.linear(images_BCHW.mean(dim=(2, 3)))
        match self.fault:
            case "nan":
                return logits_BK * float("nan")
            case "mixes rows":
                return logits_BK - logits_BK.mean(dim=0)
            case "shape":
                return logits_BK[:, :4]
        raise ValueError(self.fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "logits that are not finite on random images"),
        ("mixes rows", r"rows in batches of 1 against a batch of 16: got a logit difference"),
        ("shape", r"output: got shape \[16, 4\]; must be \[16, 5\]"),
        ("no such", r"the network fails on images \(16, 8, 8, 3\): no such"),
    ],
)
def test_odd_networks_are_refused(fault: str, message: str) -> None:
    preset = InputPreset(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    built = BuiltModel(module=_Odd(fault).eval(), architecture="odd", arguments={}, preset=preset)
    with pytest.raises(ExportError, match=message):
        export_model(built, task(8))


def test_a_network_above_two_gibibytes_is_refused_by_its_size() -> None:
    with torch.device("meta"):
        module = nn.Linear(30_000, 30_000)
    preset = InputPreset(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    built = BuiltModel(module=module, architecture="huge", arguments={}, preset=preset)
    with pytest.raises(ExportError, match="weights: got 3600120000 bytes; must be at most 2147483647"):
        export_model(built, task(8))


def test_colour_for_a_grey_network_is_refused() -> None:
    preset = InputPreset(height=8, width=8, channels=1, mean=(0.5,), std=(0.5,))
    built = build_model("digits_cnn_xs", classes=5, channels=1)
    with pytest.raises(ExportError, match="channels: the network takes 1; the task has 3"):
        export_model(BuiltModel(module=built.module, architecture="x", arguments={}, preset=preset), task(8))


@pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/squeezenet1_1"])
def test_public_networks_agree_with_torch(name: str) -> None:
    bound = task(160, classes=10)
    exported = export_model(build(name, bound), bound)
    logits_BK = GraphSession(exported.graph).logits(random_images(bound, 2, seed=3))
    assert float(np.ptp(logits_BK)) > 0
