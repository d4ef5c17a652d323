"""How a converted member is compared with its source, where one of them has no finite logits."""
# Shapes: B rows, K classes.

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_folders import write_folder
from onnx import ModelProto

from cascade_serve.core.arrays import FloatArray, ImageArray
from cascade_serve.zoo import conversion
from cascade_serve.zoo.addition import Addition, OnnxModel
from model_zoo.card import AgreementCard, ConversionCard, InputCard, TaskCard
from model_zoo.errors import ExportError
from model_zoo.flops import GraphCost
from model_zoo.graph import ExportedModel
from model_zoo.image_folder import scan_image_folder


class FixedSession:
    """Gives the same logits whatever the images show."""

    def __init__(self, logits_BK: FloatArray) -> None:
        self._logits_BK = logits_BK

    def logits(self, images_BHWC: ImageArray) -> FloatArray:
        assert len(images_BHWC) == len(self._logits_BK)
        return self._logits_BK


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[FloatArray, FloatArray], ConversionCard]:
    """Compare a source with a member on another engine, by what they say of six images."""
    data = write_folder(tmp_path / "data", per_class=2)

    def run(source_BK: FloatArray, logits_BK: FloatArray) -> ConversionCard:
        sessions = {"onnxruntime": FixedSession(source_BK), "openvino": FixedSession(logits_BK)}
        monkeypatch.setattr(conversion, "open_session", lambda _graph, _precision, engine: sessions[engine])
        folder = scan_image_folder(data)
        model = OnnxModel(file=tmp_path / "absent.onnx")
        addition = Addition(name="other", task_path=tmp_path, data=data, model=model, engine="openvino")
        exported = ExportedModel(
            graph=ModelProto(),
            input=InputCard(height=8, width=8, mean=(0.0,), std=(1.0,)),
            cost=GraphCost(flops=2, macs=1, params=1),
            agreement=AgreementCard(max_logit_difference=0.0, n=1),
        )
        task = TaskCard(height=8, width=8, channels=1, classes=folder.classes)
        card = conversion.convert(addition, exported, folder, task, lambda *_: lambda _: None).card
        assert card is not None
        # As it will be read from the member's card.
        return ConversionCard.model_validate_json(card.model_dump_json())

    return run


def test_rows_without_finite_logits_in_one_of_them_differ(
    compare: Callable[[FloatArray, FloatArray], ConversionCard],
) -> None:
    source_BK = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2, 2]]
    logits_BK = source_BK + np.float32(0.25)
    source_BK[1] = logits_BK[1] = np.nan  # broken in both
    logits_BK[2] = [np.inf, 0, 0]
    logits_BK[3] = np.nan
    logits_BK[4] = [9, 0, 2]
    card = compare(source_BK, logits_BK)
    assert card.same_label == pytest.approx(3 / 6)
    assert card.max_logit_difference == 9


def test_a_member_without_any_finite_logits_is_refused(
    compare: Callable[[FloatArray, FloatArray], ConversionCard],
) -> None:
    source_BK = np.zeros((6, 3), dtype=np.float32)
    with pytest.raises(ExportError, match=r"^fp32: got no finite logits on any of 6 images$"):
        compare(source_BK, np.full_like(source_BK, np.inf))
