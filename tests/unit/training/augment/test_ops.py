"""Ops: their values at every magnitude, and an op of one's own from the registry to the plot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from augmented_images import op_context, random_images, seeded
from torch import Tensor
from torchvision.transforms.v2 import functional

from training.augment import ops
from training.augment.augmentation import Moment
from training.augment.build import policy_augmentation
from training.augment.config import AugmentConfig
from training.augment.ops import Op, OpContext, get_op, initial_policy, op_names, register_op
from training.augment.picture import draw_policy_schedule
from training.augment.policy import PolicyEntry, PolicySchedule, Segment
from training.augment.schedule_files import read_policy_schedule, write_policy_schedule
from training.errors import AugmentError

_FACTORS = [0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 1.18, 1.36, 1.54, 1.72]
_SLOPES = [0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24, 0.27]
_VALUES: dict[str, list[float]] = {
    "Rotate": [0, 3, 6, 9, 12, 15, 18, 21, 24, 27],
    "TranslateX": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    "TranslateY": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    "ShearX": _SLOPES,
    "ShearY": _SLOPES,
    "Brightness": _FACTORS,
    "Color": _FACTORS,
    "Contrast": _FACTORS,
    "Sharpness": _FACTORS,
    "Posterize": [4, 4, 4, 3, 3, 2, 2, 2, 1, 1],
    "Solarize": [256, 231, 205, 180, 154, 128, 103, 77, 52, 26],
    "Cutout": [0, 2, 4, 6, 8, 10, 12, 14, 16, 18],
    "Invert": [0] * 10,
    "Equalize": [0] * 10,
    "AutoContrast": [0] * 10,
}
_SIGNED = {"Rotate", "TranslateX", "TranslateY", "ShearX", "ShearY"}


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_OPS", dict(ops._OPS))


@pytest.mark.parametrize("name", _VALUES)
def test_the_value_at_each_magnitude_is_the_papers(name: str) -> None:
    op = get_op(name)
    assert [op.value_at(magnitude) for magnitude in range(10)] == pytest.approx(_VALUES[name], abs=1e-12)
    assert op.has_sign == (name in _SIGNED)


def test_the_papers_ops_are_there_and_a_policy_starts_with_two_zero_copies_of_each() -> None:
    assert set(op_names()) == set(_VALUES)
    assert len(op_names()) == 15
    assert initial_policy() == tuple(PolicyEntry(op=name, probability=0, magnitude=0) for name in op_names() * 2)


def test_five_changes_nothing_where_a_factor_is_meant_but_nought_does() -> None:
    for name in ("Brightness", "Color", "Contrast", "Sharpness"):
        op = get_op(name)
        assert op.value_at(5) == op.identity == 1.0
        assert op.value_at(0) != op.identity


@pytest.mark.parametrize("name", _VALUES)
def test_the_identity_changes_nothing_and_all_else_keeps_shape_and_input(name: str) -> None:
    op = get_op(name)
    for channels in (1, 3):
        for height, width in ((8, 8), (32, 32), (20, 41), (1, 3)):
            images_BCHW = random_images(6, channels, height=height, width=width)
            before_BCHW = images_BCHW.clone()
            for magnitude in (0, 4, 9):
                changed_BCHW = op.kernel(images_BCHW, op.value_at(magnitude), op_context(channels))
                assert changed_BCHW.shape == images_BCHW.shape
                assert changed_BCHW.dtype == torch.uint8
                assert torch.equal(images_BCHW, before_BCHW)
            if op.identity is not None:
                assert torch.equal(op.kernel(images_BCHW, op.identity, op_context(channels)), images_BCHW)


def test_pixels_are_meant_on_cifars_size_and_scale_with_the_image() -> None:
    fill = OpContext(fill_C=torch.tensor([7], dtype=torch.uint8), generator=seeded())
    images_BCHW = torch.full((1, 1, 64, 16), 200, dtype=torch.uint8)
    moved_BCHW = get_op("TranslateX").kernel(images_BCHW, 9.0, fill)
    # 9 of 32 is 4.5 of 16 pixels, cut to 4; 18 of 64.
    assert (moved_BCHW[0, 0, 0] == 7).tolist() == [True] * 4 + [False] * 12
    moved_BCHW = get_op("TranslateY").kernel(images_BCHW, -9.0, fill)
    assert (moved_BCHW[0, 0, :, 0] == 7).tolist() == [False] * 46 + [True] * 18
    # 2 of 32 is 1 of 16, the shorter side.
    assert int((get_op("Cutout").kernel(images_BCHW, 2.0, fill) == 7).sum()) == 1


@pytest.mark.parametrize("magnitude", range(10))
def test_the_cut_out_square_has_the_papers_side_wherever_it_is_not_clipped(magnitude: int) -> None:
    images_BCHW = torch.zeros(300, 1, 32, 32, dtype=torch.uint8)
    context = OpContext(fill_C=torch.tensor([255], dtype=torch.uint8), generator=seeded())
    cut_BHW = get_op("Cutout").kernel(images_BCHW, 2.0 * magnitude, context)[:, 0] == 255
    heights_B, widths_B = cut_BHW.any(2).sum(1), cut_BHW.any(1).sum(1)
    assert torch.equal(heights_B * widths_B, cut_BHW.sum((1, 2)))
    assert int(heights_B.max()) == int(widths_B.max()) == 2 * magnitude
    # Clipped at a border at worst to a half, as the centre lies in the image.
    assert int(heights_B.min()) >= magnitude


@pytest.mark.usefixtures("_own_registry")
def test_an_op_of_ones_own_enters_search_files_plot_and_training(tmp_path: Path) -> None:
    def blur(images_BCHW: Tensor, value: float, context: OpContext) -> Tensor:
        blurred: Any = functional.gaussian_blur(images_BCHW, [3, 3], [value])
        return torch.as_tensor(blurred)

    register_op(Op(name="Blur", value_at=lambda magnitude: 0.1 + 0.1 * magnitude, kernel=blur))

    assert op_names()[-1] == "Blur"
    assert [entry.op for entry in initial_policy()].count("Blur") == 2
    policy = (PolicyEntry(op="Blur", probability=10, magnitude=9),)
    schedule = PolicySchedule(segments=(Segment(epochs=1, policy=policy),))
    write_policy_schedule(schedule, tmp_path / "schedule.json")
    assert read_policy_schedule(tmp_path / "schedule.json") == schedule
    labels = [text.get_text() for text in draw_policy_schedule(schedule).legends[0].get_texts()]
    assert labels == ["Blur"]
    images_BCHW = random_images(200)
    changed_BCHW = policy_augmentation(policy, AugmentConfig(), (0, 0, 0))(
        images_BCHW, torch.arange(200), Moment(epoch=0, epochs=1), seeded()
    )
    blurred_BCHW = blur(images_BCHW, 1.0, OpContext(fill_C=torch.zeros(3), generator=seeded()))
    is_blurred_B = (changed_BCHW == blurred_BCHW).flatten(1).all(1)
    assert torch.equal(changed_BCHW[~is_blurred_B], images_BCHW[~is_blurred_B])
    assert 130 < int(is_blurred_B.sum()) < 185


@pytest.mark.usefixtures("_own_registry")
def test_a_name_is_given_once() -> None:
    with pytest.raises(AugmentError, match="op: got 'Rotate'; is registered already"):
        register_op(get_op("Rotate"))


def test_an_unknown_op_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AugmentError, match=r"op: got 'Rotat'; must be registered .*; known: Rotate, TranslateX,"):
        get_op("Rotat")
