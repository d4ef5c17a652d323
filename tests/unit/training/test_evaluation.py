"""Predictions and accuracies, with and without mirror images."""

import numpy as np
import pytest
import torch
from small_runs import NORMALISATION, small_digits, small_model
from torch import Tensor, nn

from cascade_serve.core.interval import wilson_interval
from training.data.images import LabelledImages
from training.errors import DataError
from training.evaluation import Tta, evaluate, predict
from training.inputs import Normalisation, normalise


def test_prediction_does_not_depend_on_batches_and_leaves_the_mode() -> None:
    model = small_model().train()
    at_once_BK = predict(model, small_digits(), NORMALISATION, batch_size=500)
    in_parts_BK = predict(model, small_digits(), NORMALISATION, batch_size=33)
    np.testing.assert_allclose(in_parts_BK, at_once_BK, atol=1e-5)
    assert at_once_BK.shape == (500, 10)
    assert at_once_BK.dtype == np.float32
    assert model.training


class LeftOverRight(nn.Module):
    """Logits are the means of the left and the right half."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return torch.stack([images_BCHW[..., :4].mean(dim=(1, 2, 3)), images_BCHW[..., 4:].mean(dim=(1, 2, 3))], dim=1)


def test_mirror_images_are_averaged_in() -> None:
    plain_BK = predict(LeftOverRight(), small_digits(20), NORMALISATION)
    averaged_BK = predict(LeftOverRight(), small_digits(20), NORMALISATION, tta=Tta.FLIP)
    np.testing.assert_allclose(averaged_BK, (plain_BK + plain_BK[:, ::-1]) / 2, atol=1e-6)
    assert abs(plain_BK[:, 0] - plain_BK[:, 1]).max() > 0.1


class TwoPixels(nn.Module):
    """Logits are the pixel in the upper left corner and the one right and down of it."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return torch.stack([images_BCHW[:, 0, 0, 0], images_BCHW[:, 0, 1, 1]], dim=1)


def test_six_views_by_hand() -> None:
    image_HW = (np.arange(16, dtype=np.uint8) ** 2).reshape(4, 4)
    data = LabelledImages(
        images_BHWC=image_HW[None, :, :, None], labels_B=np.zeros(1, np.int64), ids_B=np.arange(1), classes=("a", "b")
    )
    views_BK = predict(TwoPixels(), data, Normalisation(mean=(0.0,), std=(1 / 255,)), tta=Tta.TRANSLATE)
    at = image_HW.astype(np.float64)
    # Where the corner is moved, either way, there is the pixel right and down of it, by shift or by reflection.
    corner = (at[0, 0] + at[0, 3]) / 4 + (at[1, 1] + at[1, 2]) / 4
    inner = (at[1, 1] + at[1, 2]) / 4 + (at[0, 0] + at[0, 1] + at[2, 2] + at[2, 3]) / 8
    np.testing.assert_allclose(views_BK, [[corner, inner]], rtol=1e-5)


def test_accuracy_by_hand() -> None:
    data = small_digits(50)

    class Knows(nn.Module):
        """Right on the first 40 images."""

        def forward(self, images_BCHW: Tensor) -> Tensor:
            labels_B = torch.from_numpy(data.labels_B).clone()
            labels_B[40:] = (labels_B[40:] + 1) % 10
            return torch.eye(10)[labels_B]

    found = evaluate(Knows(), data, NORMALISATION)
    assert (found.n, found.top1, found.data_sha256) == (50, 0.8, data.sha256)
    assert found.interval == wilson_interval(40, 50)


def test_what_can_not_be_predicted_is_refused() -> None:
    with pytest.raises(DataError, match=r"^images: got \[0, 8, 8, 1\]; must be at least one, with 1 channels$"):
        evaluate(small_model(), small_digits(0), NORMALISATION)
    with pytest.raises(DataError, match=r"^images: got \[20, 8, 8, 1\]; must be at least one, with 2 channels$"):
        predict(small_model(), small_digits(20), Normalisation(mean=(0.5, 0.5), std=(1.0, 1.0)))
    with pytest.raises(ValueError, match=r"^batch_size: got 0; must be at least 1$"):
        predict(small_model(), small_digits(20), NORMALISATION, batch_size=0)


def test_an_outer_autocast_does_not_reach_in() -> None:
    expected_BK = predict(small_model(), small_digits(20), NORMALISATION)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(predict(small_model(), small_digits(20), NORMALISATION), expected_BK)


class RecordsTf32(nn.Module):
    """Notes whether convolutions on a GPU might round to TF32."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.seen.append(torch.backends.cudnn.allow_tf32)
        return images_BCHW.flatten(1)[:, :2]


def test_convolutions_of_float32_are_not_rounded_meanwhile() -> None:
    model = RecordsTf32()
    before = torch.backends.cudnn.allow_tf32
    predict(model, small_digits(3), NORMALISATION)
    assert model.seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_normalisation_by_hand() -> None:
    pixels_BCHW = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1)
    normalised_BCHW = normalise(pixels_BCHW, Normalisation(mean=(0.5, 0.2), std=(0.25, 0.4)))
    torch.testing.assert_close(normalised_BCHW.flatten(), torch.tensor([-2.0, 2.0]))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.5, 0.5), r"^mean, std: got 1 and 2 channels; must be equally many$"),
        ((), (), r"^mean, std: got 0 and 0 channels; must be equally many$"),
        ((0.5,), (0.0,), r"^std: got \(0\.0,\); must be above 0 and finite$"),
    ],
)
def test_normalisations_ranges(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Normalisation(mean=mean, std=std)
