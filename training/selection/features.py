"""What a trained model makes of images: class probabilities, and the features that its last layer sees."""
# Shapes: N images, B rows of a batch, K classes, D features.

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.combine import softmax
from training.data.images import LabelledImages
from training.errors import SelectionError
from training.evaluation import predict
from training.inputs import Normalisation


def predict_probabilities(
    model: nn.Module, data: LabelledImages, normalisation: Normalisation, *, batch_size: int = 512, device: str = "cpu"
) -> FloatArray:
    """Give a model's class probabilities, without augmentation; its mode is left as it was.

    Args:
        model: takes normalised float32 [B, C, H, W], gives logits [B, K].
        data: images; their labels are not looked at.
        normalisation: of the pixels, as trained.
        batch_size: images at a time.
        device: where the model lies.

    Returns:
        float32 [N, K].
    """
    return softmax(predict(model, data, normalisation, batch_size=batch_size, device=device))


def extract_features(
    model: nn.Module,
    data: LabelledImages,
    normalisation: Normalisation,
    *,
    layer: str | None = None,
    batch_size: int = 512,
    device: str = "cpu",
) -> FloatArray:
    """Give the input of a model's classifier layer, without augmentation; its mode is left as it was.

    Args:
        model, data, normalisation, batch_size, device: as for :func:`predict_probabilities`.
        layer: name of the classifier layer, as in ``model.named_modules()``; None takes the last ``nn.Linear``.

    Returns:
        float32 [N, D], the layer's input flattened.

    Raises:
        SelectionError: there is no such layer, or the model's forward pass does not call it once a batch.
    """
    name = layer if layer is not None else _last_linear(model)
    with _inputs_of(model, name) as parts:
        predict(model, data, normalisation, batch_size=batch_size, device=device)
    rows = sum(len(part) for part in parts)
    if rows != len(data):
        raise SelectionError(
            f"layer {name!r}: got {rows} rows for {len(data)} images; must be called once a batch; name another layer"
        )
    features_ND: FloatArray = torch.cat(parts).numpy()
    return features_ND


def _last_linear(model: nn.Module) -> str:
    linears: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise SelectionError(f"layer: {type(model).__name__} has no nn.Linear; name the layer whose input is wanted")
    return linears[-1]


@contextmanager
def _inputs_of(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect, on the CPU, what goes into a layer while the block runs."""
    modules = dict(model.named_modules())
    if name not in modules:
        raise SelectionError(f"layer: got {name!r}; must be one of {', '.join(known for known in modules if known)}")
    parts: list[Tensor] = []

    def keep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        parts.append(arguments[0].detach().flatten(1).float().cpu())

    handle = modules[name].register_forward_pre_hook(keep)
    try:
        yield parts
    finally:
        handle.remove()
