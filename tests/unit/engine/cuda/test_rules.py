"""The rules on tensors against those of ``core``: the same verdicts, and the same numbers but for the last bits."""

import numpy as np
import pytest
import torch

from cascade_serve.core import combine as core_combine
from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.combine import LARGEST_LOGIT, Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.confidence import confidence as core_confidence
from cascade_serve.core.gate import should_exit
from cascade_serve.engine.cuda import rules
from cascade_serve.engine.cuda.rules import Said

DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
TOLERANCE = 2e-6
"""float32's step at 1 is 1.2e-7: some steps for an exponential, a sum of ten and a logarithm."""
BAD = (np.nan, np.inf, -np.inf, 2 * LARGEST_LOGIT, -2 * LARGEST_LOGIT)


def random_logits(rows: int, classes: int, seed: int) -> FloatArray:
    """Rows from undecided to certain; some of them unusable, some with ties."""
    rng = np.random.default_rng(seed)
    scale_B1 = 10 ** rng.uniform(-2, 2, size=(rows, 1))
    logits_BK = (rng.normal(size=(rows, classes)) * scale_B1).astype(np.float32)
    logits_BK[::7] = np.round(logits_BK[::7])
    for row, bad in enumerate(BAD):
        logits_BK[row, rng.integers(classes)] = bad
    logits_BK[len(BAD)] = 0
    logits_BK[len(BAD) + 1] = LARGEST_LOGIT
    rng.shuffle(logits_BK)
    return logits_BK


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("function", list(Confidence))
@pytest.mark.parametrize("classes", [1, 2, 10, 101])
def test_members_that_speak_in_turn_come_to_what_core_says(
    device: torch.device, combine: Combine, function: Confidence, classes: int
) -> None:
    rows = 400
    said = Said(torch.zeros((rows, classes), device=device), torch.zeros(rows, device=device))
    scores, usables = [], []
    for stage, temperature in enumerate((1.0, 1.7, 0.4)):
        logits_BK = random_logits(rows, classes, seed=10 * classes + stage)
        score_BK, usable_B = rules.member_score(combine, torch.from_numpy(logits_BK).to(device), temperature)
        said = rules.include(combine, said, score_BK, usable_B)
        probabilities_BK = rules.probabilities(combine, said)
        rated_B = rules.confidence(function, probabilities_BK)

        wanted_usable_B = core_combine.is_usable(logits_BK)
        np.testing.assert_array_equal(usable_B.cpu().numpy(), wanted_usable_B)
        safe_BK = np.where(wanted_usable_B[:, None], logits_BK, np.float32(0))
        scores.append(core_combine.member_score(combine, safe_BK, temperature))
        usables.append(wanted_usable_B)
        wanted_BK = core_combine.combine_stages(combine, np.stack(scores, axis=1), np.stack(usables, axis=1))
        np.testing.assert_allclose(probabilities_BK.cpu().numpy(), wanted_BK, rtol=1e-4, atol=TOLERANCE)
        wanted_B = core_confidence(function, wanted_BK)
        np.testing.assert_allclose(rated_B.cpu().numpy(), wanted_B, atol=2 * TOLERANCE)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("function", list(Confidence))
def test_the_gate_judges_the_same_numbers_as_core_does(device: torch.device, function: Confidence) -> None:
    """Given the very same confidences, ties and NaN among them, the verdicts are equal, not close."""
    rng = np.random.default_rng(3)
    probabilities_BK = rng.dirichlet(np.ones(5), size=300).astype(np.float32)
    probabilities_BK[::11] = np.nan
    probabilities_BK[1::11] = np.float32(0.2)
    tensor_BK = torch.from_numpy(probabilities_BK).to(device)
    rated_B = rules.confidence(function, tensor_BK)
    confidence_B = rated_B.cpu().numpy()
    threshold_B = np.where(rng.random(300) < 0.5, np.nan_to_num(confidence_B, nan=0.5), rng.random(300))
    threshold_B = threshold_B.astype(np.float32)
    threshold_B[::5] = np.inf
    usable_B, is_last_B = rng.random(300) < 0.8, rng.random(300) < 0.3
    judged = rules.judge(
        tensor_BK,
        rated_B,
        *(torch.from_numpy(column).to(device) for column in (usable_B, threshold_B, is_last_B)),
    )
    confident_B = should_exit(np.where(usable_B, confidence_B, np.float32(np.nan)), threshold_B)
    has_answer_B = ~np.isnan(confidence_B)
    np.testing.assert_array_equal(judged.confident_B.cpu().numpy(), confident_B)
    np.testing.assert_array_equal(judged.exits_B.cpu().numpy(), (confident_B | is_last_B) & has_answer_B)
    np.testing.assert_array_equal(judged.fails_B.cpu().numpy(), is_last_B & ~has_answer_B)
    label_B = judged.label_B.cpu().numpy()
    np.testing.assert_array_equal(label_B[has_answer_B], probabilities_BK[has_answer_B].argmax(axis=1))


HAND_WORKED = [
    (Confidence.MAX_PROB, [0.5, 0.3, 0.2], 0.5),
    (Confidence.MARGIN, [0.25, 0.5, 0.25], 0.25),
    (Confidence.MARGIN, [0.5, 0.5, 0.0], 0.0),
    (Confidence.ENTROPY, [1.0, 0.0, 0.0], 1.0),
    (Confidence.ENTROPY, [0.5, 0.5, 0.0, 0.0], 0.5),
    (Confidence.MAX_PROB, [1.0], 1.0),
    (Confidence.ENTROPY, [float("nan")], float("nan")),
    (Confidence.MARGIN, [float("nan"), 0.5, 0.5], float("nan")),
]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(("function", "row_K", "wanted"), HAND_WORKED, ids=str)
def test_confidences_worked_by_hand(
    device: torch.device, function: Confidence, row_K: list[float], wanted: float
) -> None:
    rated_B = rules.confidence(function, torch.tensor([row_K], device=device))
    assert float(rated_B[0]) == pytest.approx(wanted, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_equal_probabilities_are_told_apart_as_numpy_does(device: torch.device) -> None:
    rows_BK = np.array([[0.1, 0.4, 0.4, 0.1], [0.25] * 4, [0.0, 0.0, 0.5, 0.5]], dtype=np.float32)
    nothing_B = torch.zeros(3, device=device)
    judged = rules.judge(torch.from_numpy(rows_BK).to(device), nothing_B, nothing_B > 0, nothing_B, nothing_B > 0)
    assert judged.label_B.tolist() == rows_BK.argmax(axis=1).tolist() == [1, 0, 2]
