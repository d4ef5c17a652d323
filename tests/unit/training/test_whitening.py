"""Whitening: moments by hand and in parts, patches that come out white, and layers that are set."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cascade_serve.core.arrays import ImageArray
from model_zoo.registry import build_model
from training import whitening
from training.data.images import LabelledImages
from training.errors import DataError
from training.inputs import Normalisation, normalise, to_device
from training.whitening import apply_whitening, patch_moments, whitening_weights

PLAIN = Normalisation(mean=(0.0,), std=(1 / 255,))
COLOUR = Normalisation(mean=(0.5, 0.4, 0.6), std=(0.25, 0.2, 0.3))


def _photographs(rows: int = 40, size: int = 12) -> ImageArray:
    """Draw smooth colours, so that neighbouring pixels and channels are correlated as in photographs."""
    rng = np.random.default_rng(0)
    coarse_BHWC = rng.normal(0, 60, (rows, size // 4, size // 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    mixed_BHWC = coarse_BHWC @ np.array([[1.0, 0.8, 0.6], [0.0, 0.5, 0.3], [0.0, 0.0, 0.4]])
    images_BHWC: ImageArray = np.clip(128 + mixed_BHWC + rng.normal(0, 9, mixed_BHWC.shape), 0, 255).astype(np.uint8)
    return images_BHWC


def _data(images_BHWC: ImageArray) -> LabelledImages:
    rows = np.arange(len(images_BHWC), dtype=np.int64)
    return LabelledImages(images_BHWC=images_BHWC, labels_B=rows % 2, ids_B=rows, classes=("a", "b"))


def test_moments_by_hand() -> None:
    images_BHWC = np.array([[[1], [2], [3]], [[0], [1], [0]]], dtype=np.uint8)[None]
    # Patches [1, 2, 0, 1] and [2, 3, 1, 0].
    expected = (np.outer([1, 2, 0, 1], [1, 2, 0, 1]) + np.outer([2, 3, 1, 0], [2, 3, 1, 0])) / 2
    moments_PP = patch_moments(images_BHWC, PLAIN, 2)
    assert moments_PP.dtype == torch.float64
    np.testing.assert_allclose(moments_PP.numpy(), expected, rtol=1e-6)


def test_moments_do_not_depend_on_the_parts_they_are_summed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    images_BHWC = _photographs()
    whole = patch_moments(images_BHWC, COLOUR, 3)
    monkeypatch.setattr(whitening, "_CHUNK_PATCHES", 350)
    torch.testing.assert_close(patch_moments(images_BHWC, COLOUR, 3), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_whitened_patches_are_uncorrelated_with_variance_one(kernel_size: int) -> None:
    images_BHWC = _photographs()
    filters_PCHW = whitening_weights(images_BHWC, COLOUR, kernel_size=kernel_size, epsilon=0.0)
    size = 3 * kernel_size**2
    assert filters_PCHW.shape == (size, 3, kernel_size, kernel_size)
    assert filters_PCHW.dtype == torch.float32
    images_BCHW = normalise(to_device(images_BHWC, "cpu"), COLOUR)
    white_NP = functional.conv2d(images_BCHW, filters_PCHW).permute(0, 2, 3, 1).reshape(-1, size).double()
    torch.testing.assert_close(
        white_NP.T @ white_NP / len(white_NP), torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-3
    )


def test_epsilon_keeps_directions_of_little_variance_small() -> None:
    # The four pixels of each image are equal: one direction has all the variance, three have none.
    images_BHWC = np.array([[10], [200], [90], [30]], dtype=np.uint8).repeat(4, axis=1).reshape(4, 2, 2, 1)
    filters_PCHW = whitening_weights(images_BHWC, PLAIN, kernel_size=2, epsilon=4.0)
    mean_square = float(np.mean(np.square([10.0, 200, 90, 30])))
    assert filters_PCHW[0].flatten().tolist() == pytest.approx([0.5 / (4 * mean_square + 4) ** 0.5] * 4)
    norms_P = filters_PCHW.flatten(1).norm(dim=1)
    assert norms_P[1:].tolist() == pytest.approx([0.5] * 3, rel=1e-4)


def test_filters_come_by_falling_variance_and_with_settled_signs() -> None:
    filters_PP = whitening_weights(_photographs(), COLOUR, kernel_size=2, epsilon=1e-3).flatten(1)
    norms_P = filters_PP.norm(dim=1)
    assert torch.equal(norms_P, norms_P.sort().values)
    furthest_P = filters_PP.gather(1, filters_PP.abs().argmax(dim=1, keepdim=True))
    assert bool((furthest_P > 0).all())


def test_layers_of_both_kinds_are_set_and_stay_frozen() -> None:
    data = _data(_photographs())
    page = build_model("resnet9", classes=2, arguments={"width": 4, "whitening": True}).module
    airbench = build_model("airbench94", classes=2, arguments={"widths": [4, 4, 4]}).module
    for model, kernel_size, epsilon in ((page, 3, 1e-2), (airbench, 2, 5e-4)):
        assert apply_whitening(model, data, COLOUR)
        weight = model.get_parameter("whitening.weight")
        assert not weight.requires_grad
        expected = whitening_weights(data.images_BHWC, COLOUR, kernel_size=kernel_size, epsilon=epsilon)
        assert torch.equal(weight[: len(expected)], expected)
    both = airbench.get_parameter("whitening.weight")
    assert torch.equal(both[12:], -both[:12])


def test_images_are_taken_evenly_over_sorted_data() -> None:
    images_BHWC = np.zeros((100, 2, 2, 1), dtype=np.uint8)
    images_BHWC[50:] = 100
    model = nn.Sequential(build_model("airbench94", classes=2, channels=1, arguments={"widths": [4, 4, 4]}).module)
    assert apply_whitening(model, _data(images_BHWC), PLAIN, num_images=10)
    # Half of the ten are 0, so the mean square of 4 equal pixels of 100 is halved, in a direction of norm 2.
    first = model[0].get_parameter("whitening.weight")[0]
    assert first.flatten().tolist() == pytest.approx([0.5 / (4 * 100**2 / 2) ** 0.5] * 4, rel=1e-4)


def test_models_without_such_a_layer_are_left_alone() -> None:
    model = build_model("resnet9", classes=2, arguments={"width": 4}).module
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not apply_whitening(model, _data(_photographs()), COLOUR)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (3, 2, 8, 1), (3, 8, 8, 3)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        DataError, match=r"images: got \[.*\]; must be at least one of 1 channels, no smaller than 3 x 3"
    ):
        patch_moments(np.zeros(shape, dtype=np.uint8), PLAIN, 3)
