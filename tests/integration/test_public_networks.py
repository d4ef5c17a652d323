"""Networks of timm and torchvision, with random weights, from the library to answers over gRPC."""
# Shapes: B rows, K classes, BHWC image.

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from image_folders import write_folder
from skeleton_graph import skeleton_graph
from timm.layers.config import set_fused_attn
from typer.testing import CliRunner
from unsettled_norms import unsettle

from cascade_serve import Client
from cascade_serve.bundle import load_bundle
from cascade_serve.cli.app import app
from cascade_serve.core.arrays import FloatArray, ImageArray, IntArray
from cascade_serve.engine.opening import OpeningConfig
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.rpc.server import ServerConfig
from cascade_serve.serving import ServeConfig, ServingProcess
from cascade_serve.zoo import Addition, TorchModel, add_member
from model_zoo.flops import count_model
from model_zoo.graph import random_images
from model_zoo.registry import build_model
from model_zoo.served import ServedModule
from model_zoo.store import WEIGHTS_FILE, read_member
from model_zoo.weights import load_weights
from training.weights import write_weights

ARCHITECTURES = (
    "timm/mobilenetv2_100",
    "timm/mobilenetv3_small_100",
    "timm/efficientnet_b0",
    "timm/resnet18",
    "timm/convnext_atto",
    "timm/vit_tiny_patch16_224",
    "timm/deit_tiny_patch16_224",
    "timm/mobilevit_xxs",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
)
CLASSES = 3
SIZE = 224
BY_HAND = ("shufflenet_v2_x0_5", "mobilenetv3_small_100", "vit_tiny_patch16_224")
SEARCHED = ("squeezenet1_1", "resnet18", "convnext_atto")

# One fixture exports all ten.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Served:
    """All networks behind one server."""

    task_path: Path
    repository: Path
    client: Client


def short(architecture: str) -> str:
    return architecture.partition("/")[2]


@pytest.fixture(scope="module")
def task_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    data = write_folder(folder / "data", classes=CLASSES, per_class=8, grey=False)
    for architecture in ARCHITECTURES:
        weights = folder / f"{short(architecture)}.safetensors"
        write_weights(unsettle(build_model(architecture, classes=CLASSES).module), weights)
        addition = Addition(
            name=short(architecture),
            task_path=folder / "zoo" / "shades",
            data=data,
            model=TorchModel(architecture=architecture, weights=weights),
            task_size=SIZE,
        )
        assert add_member(addition, quiet).warnings == ()
    return folder / "zoo" / "shades"


def quiet(_what: str, _total: int | None) -> Callable[[int], None]:
    return lambda _done: None


def plan(task_path: Path, target: Path, *options: str) -> None:
    CliRunner().invoke(app, ["plan", str(task_path), "--out", str(target), *options], catch_exceptions=False)


@pytest.fixture(scope="module")
def served(task_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("repository")
    for architecture in ARCHITECTURES:
        name = short(architecture)
        plan(task_path, repository / name / "1", "--stages", name, "--no-calibration")
    first, second, third = BY_HAND
    plan(task_path, repository / "by-hand" / "1", "--stages", f"{first}:0.5,{second}:0.6,{third}", "--no-calibration")
    plan(task_path, repository / "searched" / "1", "--members", ",".join(SEARCHED), "--max-regret", "0.9")
    config = ServeConfig(
        repository=repository,
        server=ServerConfig(port=0),
        opening=OpeningConfig(engine=EngineConfig(max_batch_size=4)),
        metrics_port=0,
        watch_interval_s=0,
    )
    process = ServingProcess(config)
    process.start()
    try:
        with Client(f"127.0.0.1:{process.server.port}", timeout_s=60) as client:
            yield Served(task_path=task_path, repository=repository, client=client)
    finally:
        process.stop()


@pytest.fixture(scope="module")
def images(task_path: Path) -> ImageArray:
    return random_images(read_member(task_path / "resnet18").card.task, 6, seed=7)


def ask(served: Served, images: ImageArray, model: str, **terms: Any) -> tuple[FloatArray, IntArray, IntArray]:
    """Give probabilities [B, K], exit stage [B] and FLOPs [B]."""
    answer = served.client.infer(images, model=model, **terms)
    assert answer.probabilities is not None
    assert answer.exit_stage is not None
    assert answer.flops is not None
    return answer.probabilities, answer.exit_stage.astype(np.int64), answer.flops


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_member_alone_answers_like_torch(architecture: str, served: Served, images: ImageArray) -> None:
    member = read_member(served.task_path / short(architecture))
    built = build_model(architecture, classes=CLASSES, seed=99)
    load_weights(built.module, member.path / WEIGHTS_FILE)
    with torch.inference_mode():
        logits_BK = ServedModule(built.module, built.preset, member.card.task).eval()(torch.from_numpy(images))
    probabilities_BK, _, flops_B = ask(served, images, short(architecture))
    np.testing.assert_allclose(probabilities_BK, logits_BK.softmax(dim=1).numpy(), atol=1e-3)
    assert float(np.ptp(logits_BK.numpy())) > 0
    assert set(flops_B.tolist()) == {member.card.cost.flops}


def test_an_ensemble_is_the_mean_of_its_members(served: Served, images: ImageArray) -> None:
    alone = [ask(served, images, name)[0] for name in BY_HAND]
    together_BK, _, _ = ask(served, images, "by-hand", mode="ensemble")
    np.testing.assert_allclose(together_BK, np.mean(alone, axis=0), atol=1e-5)


def test_a_cascade_by_hand_spends_what_its_exits_cost(served: Served, images: ImageArray) -> None:
    costs = np.cumsum([read_member(served.task_path / name).card.cost.flops for name in BY_HAND])
    for threshold, stages in ((0.0, {0}), (1.0, {2}), (None, None)):
        _, exit_stage_B, flops_B = ask(served, images, "by-hand", confidence_threshold=threshold)
        assert stages is None or set(exit_stage_B.tolist()) == stages
        assert flops_B.tolist() == costs[exit_stage_B].tolist()


def test_a_searched_plan_serves_all_its_policies(served: Served, images: ImageArray) -> None:
    found = load_bundle(served.repository / "searched" / "1").plan
    assert {"default", "fast", "accurate", "reference", "front-00"} <= set(found.policies)
    for name, policy in found.policies.items():
        _, _, flops_B = ask(served, images, "searched", policy=name)
        assert flops_B.max() <= policy.worst_case_flops
    reference_BK, _, _ = ask(served, images, "searched", policy="reference")
    alone_BK, _, _ = ask(served, images, str(found.reference))
    assert reference_BK.argmax(axis=1).tolist() == alone_BK.argmax(axis=1).tolist()


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv2_100", "resnet18", "vit_tiny_patch16_224"])
def test_the_exported_graph_counts_like_the_skeleton_exactly(name: str, task_path: Path) -> None:
    # Fused attention is one operator, whose products the recorder would not see.
    set_fused_attn(False)
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=CLASSES).eval()
    counted = count_model(skeleton_graph(module, (3, SIZE, SIZE)))
    assert read_member(task_path / name).card.cost.macs == counted.macs
