"""Probabilities and features, and models that hide their classifier."""

import numpy as np
import pytest
import torch
from stub_proxy import NORMALISATION, pixel_images, pixel_model
from torch import Tensor, nn

from model_zoo.registry import build_model
from training.data.digits import load_digits
from training.errors import SelectionError
from training.inputs import Normalisation
from training.selection.features import extract_features, predict_probabilities


def test_probabilities_by_hand() -> None:
    data = pixel_images([[0, 255], [51, 51], [255, 204]])
    found = predict_probabilities(pixel_model(2, scale=10), data, NORMALISATION, batch_size=2)
    # Logits 0 and 10; 2 and 2; 10 and 8.
    assert found[:, 0] == pytest.approx([1 / (1 + np.exp(10)), 0.5, 1 / (1 + np.exp(-2))], rel=1e-5)
    assert found.dtype == np.float32


def test_features_are_the_input_of_the_last_linear_layer() -> None:
    data = pixel_images([[0, 255, 51], [102, 0, 0]])
    features = extract_features(pixel_model(3), data, NORMALISATION, batch_size=1)
    assert features == pytest.approx(np.array([[0, 1, 0.2], [0.4, 0, 0]]), abs=1e-6)
    assert features.dtype == np.float32


def test_features_of_several_dimensions_are_flattened() -> None:
    # The layer sees an image as one row of two numbers, and so as [B, 1, 2].
    model = nn.Sequential(nn.Flatten(2), nn.Linear(2, 2), nn.Flatten())
    features = extract_features(model, pixel_images([[0, 255], [51, 102]]), NORMALISATION)
    assert features == pytest.approx(np.array([[0, 1], [0.2, 0.4]]), abs=1e-6)


def test_mode_hooks_and_labels_are_left_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(3, 3), nn.Dropout(0.9), nn.Linear(3, 3))
    model.train()
    data = pixel_images([[0, 255, 51]] * 4)
    first, second = (extract_features(model, data, NORMALISATION) for _ in range(2))
    assert np.array_equal(first, second)
    assert model.training
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_layer_can_be_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.Linear(2, 5))
    data = pixel_images([[0, 255, 51]])
    assert extract_features(model, data, NORMALISATION).shape == (1, 2)
    assert extract_features(model, data, NORMALISATION, layer="1").shape == (1, 3)
    with pytest.raises(SelectionError, match=r"^layer: got 'head'; must be one of 0, 1, 2$"):
        extract_features(model, data, NORMALISATION, layer="head")


class _NoLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.never = nn.Identity()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        maps: Tensor = self.pool(self.pool(images_BCHW))
        return maps.flatten(1).expand(-1, 3)


def test_a_model_without_linear_layer_says_what_to_do() -> None:
    data = pixel_images([[0, 255, 51]] * 3)
    with pytest.raises(
        SelectionError, match=r"^layer: _NoLinear has no nn\.Linear; name the layer whose input is want"
    ):
        extract_features(_NoLinear(), data, NORMALISATION)
    for layer, rows in (("never", 0), ("pool", 6)):
        message = rf"^layer '{layer}': got {rows} rows for 3 images; must be called once a batch; name another layer$"
        with pytest.raises(SelectionError, match=message):
            extract_features(_NoLinear(), data, NORMALISATION, layer=layer)


@pytest.mark.parametrize(
    ("name", "features"), [("digits_cnn_s", 12 * 4), ("resnet20", 64), ("timm/vit_tiny_patch16_224", 192)]
)
def test_models_of_the_zoo_have_features(name: str, features: int) -> None:
    arguments = {"patch_size": 4, "depth": 1} if name.startswith("timm/") else {}
    built = build_model(name, classes=10, channels=1, image_size=8, arguments=arguments)
    data = load_digits().take(np.arange(5))
    if built.preset.channels == 3:
        data = type(data)(
            images_BHWC=data.images_BHWC.repeat(3, axis=3),
            labels_B=data.labels_B,
            ids_B=data.ids_B,
            classes=data.classes,
        )
    normalisation = Normalisation(mean=built.preset.mean, std=built.preset.std)
    features_ND = extract_features(built.module, data, normalisation)
    assert features_ND.shape == (5, features)
    # The classifier on these features gives the logits.
    linear = [module for module in built.module.modules() if isinstance(module, nn.Linear)][-1]
    with torch.inference_mode():
        logits_NK = linear(torch.from_numpy(features_ND))
    probabilities_NK = predict_probabilities(built.module, data, normalisation)
    assert torch.softmax(logits_NK, dim=1).numpy() == pytest.approx(probabilities_NK, abs=1e-5)
