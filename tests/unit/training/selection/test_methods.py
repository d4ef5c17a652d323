"""Names, own scores, and the line between scores that see labels and scores that don't."""

import re

import numpy as np
import pytest
from stub_proxy import StubTrainer, pixel_images

from cascade_serve.core.arrays import FloatArray
from training.errors import SelectionError
from training.selection import methods
from training.selection.active_learning import ActiveLearningConfig, run_active_learning
from training.selection.core_set import CoreSetConfig, select_core_set
from training.selection.forgetting import ForgettingMeter
from training.selection.methods import (
    FORGETTING_EVENTS,
    Ccs,
    KCenter,
    LabelFreeScore,
    LabelUsingScore,
    RandomChoice,
    find_active_method,
    find_core_set_method,
    find_score,
    method_names,
    register_score,
    require_active,
)

NAMES = ("least_confidence", "entropy", "margin", "forgetting_events", "k_center", "ccs", "random")


@pytest.fixture
def _own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_SCORES", dict(methods._SCORES))


def test_names_are_the_command_lines() -> None:
    assert method_names() == NAMES
    assert [find_core_set_method(name).name for name in NAMES] == list(NAMES)


def test_settings_reach_their_method() -> None:
    k_center, ccs = KCenter(start_share=0.1), Ccs(hard_share=0.2)
    assert find_core_set_method("k_center", k_center=k_center, ccs=ccs) is k_center
    assert find_core_set_method("ccs", k_center=k_center, ccs=ccs) is ccs
    assert find_core_set_method("ccs") == Ccs()


def test_unknown_names_are_refused() -> None:
    message = re.escape(f"score: got 'entropie'; must be one of {', '.join(NAMES)}")
    for find in (find_core_set_method, find_active_method):
        with pytest.raises(SelectionError, match=f"^{message}$"):
            find("entropie")
    with pytest.raises(
        SelectionError, match=r"^score: got 'ccs'; must be one of least_confidence, entropy, margin, for"
    ):
        find_score("ccs")


@pytest.mark.parametrize("name", ["forgetting_events", "ccs"])
def test_active_learning_refuses_scores_that_use_labels(name: str) -> None:
    message = (
        f"score: got '{name}', which uses labels; "
        "active learning takes least_confidence, entropy, margin, k_center, random"
    )
    with pytest.raises(SelectionError, match=f"^{re.escape(message)}$"):
        find_active_method(name)
    with pytest.raises(SelectionError, match=f"^{re.escape(message)}$"):
        require_active(find_core_set_method(name))


def test_mypy_refuses_them_too() -> None:
    # Strict mypy reports an ignore that is not needed: were the types to let labels through, this file would not pass.
    data, config, trainer = pixel_images([[0, 9], [9, 0]]), ActiveLearningConfig(shares=(0.5, 1.0)), StubTrainer()
    with pytest.raises(SelectionError, match="which uses labels"):
        run_active_learning(config, data, trainer, method=FORGETTING_EVENTS)  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match="which uses labels"):
        run_active_learning(config, data, trainer, method=Ccs(base="entropy"))  # type: ignore[arg-type]
    assert trainer.calls == []
    LabelFreeScore(name="own", rate=ForgettingMeter)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_own_scores")
def test_an_own_label_free_score_goes_everywhere() -> None:
    def second_best(probabilities_NK: FloatArray) -> FloatArray:
        second_N: FloatArray = np.sort(probabilities_NK, axis=1)[:, -2]
        return second_N

    register_score(LabelFreeScore(name="second_best", rate=second_best))
    assert "second_best" in method_names()
    data = pixel_images([[0, 0, 0], [0, 255, 255], [0, 0, 255]])
    core_set = select_core_set(CoreSetConfig(score="second_best", fraction=0.34), data, StubTrainer())
    assert core_set.subset.ids == (101,)
    active = run_active_learning(ActiveLearningConfig(score="second_best", shares=(0.3, 1.0)), data, StubTrainer())
    assert [len(subset) for subset in active] == [1, 3]


@pytest.mark.usefixtures("_own_scores")
def test_an_own_label_using_score_goes_into_core_sets_and_strata() -> None:
    register_score(LabelUsingScore(name="twice_forgotten", make_meter=ForgettingMeter))
    data = pixel_images([[0, 0], [0, 0]])
    trainer = StubTrainer(corrects=[[True, True], [True, False]])
    for config in (
        CoreSetConfig(score="twice_forgotten"),
        CoreSetConfig(score="ccs", ccs=Ccs(base="twice_forgotten", hard_share=0.5)),
    ):
        core_set = select_core_set(config, data, trainer)
        assert core_set.scores_N is not None
        assert core_set.scores_N.tolist() == [0, 1]
    assert core_set.subset.ids == (100,)
    with pytest.raises(SelectionError, match="got 'twice_forgotten', which uses labels"):
        find_active_method("twice_forgotten")


@pytest.mark.usefixtures("_own_scores")
def test_an_own_score_of_another_type_ranks_the_same() -> None:
    # Turned round as they are, 0 would be the smallest of unsigned numbers, and truths can't be turned at all.
    register_score(LabelFreeScore(name="steps", rate=lambda p_NK: (p_NK[:, 1] * 200).astype(np.uint8)))
    register_score(LabelFreeScore(name="is_two", rate=lambda p_NK: p_NK[:, 1] > 0.9))  # type: ignore[arg-type, return-value]
    data = pixel_images([[0, 0], [255, 0], [0, 255]])
    for name in ("steps", "is_two"):
        core_set = select_core_set(CoreSetConfig(score=name, fraction=0.34), data, StubTrainer())
        assert core_set.subset.ids == (102,)


@pytest.mark.usefixtures("_own_scores")
@pytest.mark.parametrize("columns", [slice(1, 2), slice(None)])
def test_an_own_score_must_be_one_number_an_image(columns: slice) -> None:
    register_score(LabelFreeScore(name="wide", rate=lambda p_NK: p_NK[:, columns]))
    data = pixel_images([[0, 0], [255, 0], [0, 255]])
    for config in (CoreSetConfig(score="wide"), CoreSetConfig(score="ccs", ccs=Ccs(base="wide"))):
        with pytest.raises(SelectionError, match=r"^wide: got scores \[3, \d\]; must be \[3\], one an image$"):
            select_core_set(config, data, StubTrainer())
    register_score(LabelFreeScore(name="short", rate=lambda p_NK: p_NK[1:, 0]))
    with pytest.raises(SelectionError, match=r"^short: got scores \[2\]; must be \[3\], one an image$"):
        select_core_set(CoreSetConfig(score="short"), data, StubTrainer())


@pytest.mark.parametrize("name", ["", "Second", "a:b", "../up", "a b"])
def test_a_name_that_no_folder_or_schedule_takes_is_refused(name: str) -> None:
    with pytest.raises(SelectionError, match=re.escape(f"score: got {name!r}; must be lower-case letters, digits, -")):
        register_score(LabelFreeScore(name=name, rate=lambda probabilities_NK: probabilities_NK[:, 0]))


@pytest.mark.parametrize("name", ["margin", "random", "ccs"])
def test_a_taken_name_is_refused(name: str) -> None:
    with pytest.raises(SelectionError, match=f"^score: '{name}' is taken; must be a new name$"):
        register_score(LabelFreeScore(name=name, rate=lambda probabilities_NK: probabilities_NK[:, 0]))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^hard_share: got 1; must be at least 0 and under 1$"):
        Ccs(hard_share=1)
    with pytest.raises(ValueError, match=r"^num_strata: got 0; must be at least 1$"):
        Ccs(num_strata=0)
    with pytest.raises(ValueError, match=r"^start_share: got 1\.5; must be in 0\.\.1$"):
        KCenter(start_share=1.5)
    assert RandomChoice() == RandomChoice()
