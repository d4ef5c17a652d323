"""Architectures by name: sizes against their papers, presets, arguments and unknown names."""

import json
from pathlib import Path

import pytest
import timm
import torch

from model_zoo.architectures.catalogue import CATALOGUE
from model_zoo.card import TaskCard
from model_zoo.errors import ExportError, UnknownArchitectureError
from model_zoo.registry import architecture_names, build_model
from model_zoo.weights import load_weights, write_weights


def parameters(name: str, channels: int = 3) -> int:
    module = build_model(name, classes=10, channels=channels).module
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # He et al. 2015, table 6.
        ("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85), ("resnet110", 1.7),
        # Zagoruyko and Komodakis 2016, tables 4 and 5.
        ("wrn40_2", 2.2), ("wrn28_10", 36.5), ("wrn16_4", 2.75),
        # Page 2018.
        ("resnet9", 6.573),
    ],
)  # fmt: skip
def test_parameters_are_the_papers(name: str, millions: float) -> None:
    assert parameters(name) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", architecture_names())
def test_logits_are_finite(name: str) -> None:
    preset = CATALOGUE[name].preset
    built = build_model(name, classes=7, channels=preset.channels)
    with torch.inference_mode():
        logits_BK = built.module(torch.randn(2, preset.channels, preset.height, preset.width))
    assert logits_BK.shape == (2, 7)
    assert logits_BK.isfinite().all()


def test_digits_family_grows() -> None:
    sizes = [parameters(f"digits_cnn_{size}", channels=1) for size in ("xs", "s", "m", "l")]
    assert sizes == sorted(sizes)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    models = [build_model("digits_cnn_s", classes=10, seed=seed).module for seed in (1, 1, 2)]
    first, second, other = (model.state_dict()["linear.weight"] for model in models)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_presets_follow_channels_size_and_library() -> None:
    grey = build_model("resnet20", classes=2, channels=1, image_size=24).preset
    assert (grey.channels, grey.height) == (1, 24)
    assert list(grey.mean) == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    vit = build_model("timm/vit_tiny_patch16_224", classes=2, image_size=96)
    assert vit.arguments == {"img_size": 96}
    assert (vit.preset.height, vit.preset.mean) == (96, (0.5, 0.5, 0.5))
    assert build_model("torchvision/squeezenet1_1", classes=2).preset.height == 224


def test_arguments_reach_the_builder() -> None:
    built = build_model("resnet20", classes=10, arguments={"depth": 26})
    assert built.arguments == {"depth": 26}
    with pytest.raises(ExportError, match="depth: got 21; must be 6n"):
        build_model("resnet20", classes=10, arguments={"depth": 21})
    with pytest.raises(ExportError, match=r"'resnet20' with arguments \{'colour': 1\}.*unexpected keyword"):
        build_model("resnet20", classes=10, arguments={"colour": 1})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet21", "close: .*resnet20"),
        ("mobilenetv2_100", "close: timm/mobilenetv2_100"),
        ("timm/mobilnetv2_100", "close: timm/mobilenetv2_100"),
        ("torchvision/resnet1818", "close: .*torchvision/resnet18"),
        ("zzzzzzzz", "known: resnet20, .*timm/NAME, torchvision/NAME"),
    ],
)
def test_unknown_names_give_close_matches(name: str, hint: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=f"got '{name}', which is unknown; {hint}"):
        build_model(name, classes=10)


def test_pretrained_of_other_classes_is_refused_before_anything_is_fetched() -> None:
    for name in ("timm/resnet18", "torchvision/resnet18"):
        with pytest.raises(ExportError, match="the model has 1000 classes; the data have 10"):
            build_model(name, classes=10, pretrained=True)


def test_own_architectures_have_no_pretrained_weights() -> None:
    with pytest.raises(ExportError, match="no pretrained weights are published"):
        build_model("resnet20", classes=10, pretrained=True)


def test_pretrained_weights_come_by_timms_own_loader(tmp_path: Path) -> None:
    task = TaskCard(height=32, width=32, channels=3, classes=("a", "b", "c"))
    built = build_model("timm/test_resnet", classes=3, image_size=32, seed=7)
    write_weights(built, task, tmp_path)
    again = build_model(f"timm/local-dir:{tmp_path}", classes=3, pretrained=True)
    assert again.preset == built.preset
    images_BCHW = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.module(images_BCHW), built.module(images_BCHW))
    with pytest.raises(ExportError, match="the model has 3 classes; the data have 4"):
        build_model(f"timm/local-dir:{tmp_path}", classes=4, pretrained=True)
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == ["a", "b", "c"]
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).num_classes == 3


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_round_trip(tmp_path: Path, suffix: str) -> None:
    source = build_model("digits_cnn_s", classes=10, seed=3)
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        wrapped = {f"module.{name}": tensor for name, tensor in source.module.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": wrapped}, path)
    else:
        task = TaskCard(height=8, width=8, channels=1, classes=tuple("0123456789"))
        write_weights(source, task, tmp_path)
        (tmp_path / "model.safetensors").rename(path)
    target = build_model("digits_cnn_s", classes=10, seed=4)
    load_weights(target.module, path)
    images_BCHW = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(target.module(images_BCHW), source.module(images_BCHW))


def test_weights_of_other_names_or_shapes_are_refused(tmp_path: Path) -> None:
    module = build_model("digits_cnn_s", classes=10).module
    weights = dict(module.state_dict())
    torch.save({"linear.bias": weights.pop("linear.bias"), "extra": torch.zeros(1)}, tmp_path / "names.pt")
    with pytest.raises(ExportError, match=r"names: missing features.0.weight.* and \d+ more; unexpected extra"):
        load_weights(module, tmp_path / "names.pt")
    other = build_model("digits_cnn_s", classes=11).module
    torch.save(other.state_dict(), tmp_path / "shapes.pt")
    with pytest.raises(ExportError, match=r"linear.weight: got shape \[11, .*; must be \[10, "):
        load_weights(module, tmp_path / "shapes.pt")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("absent.safetensors", None, "No such file"),
        ("broken.safetensors", b"nonsense", "broken.safetensors: "),
        ("broken.pt", b"nonsense", "broken.pt: no weights, or broken"),
        ("cut.pt", b"\x80\x02M", "cut.pt: no weights, or broken"),
        ("odd.pt", b"\x80\x02X\x01\0\0\0\x88.", "odd.pt: no weights, or broken"),
        ("weights.bin", b"", "got suffix '.bin'; must be .safetensors, .pt or .pth"),
    ],
)
def test_unreadable_weights_are_refused(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ExportError, match=message):
        load_weights(build_model("digits_cnn_s", classes=10).module, tmp_path / file)


def test_files_of_something_else_than_named_tensors_are_refused(tmp_path: Path) -> None:
    for content in ({1: torch.zeros(1)}, {"a": 1}, [torch.zeros(1)]):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ExportError, match="must be a mapping of names to tensors"):
            load_weights(build_model("digits_cnn_s", classes=10).module, tmp_path / "w.pt")
