"""What all processes serve, from what each says; ``R``eady, ``L``oading, un``U``nloading and una``X``vailable."""

import pytest

from cascade_serve.processes.house import View, combine, pack_index, served_versions, unpack_index
from cascade_serve.repository import IndexEntry, State

STATES: dict[str, State] = {"R": "READY", "L": "LOADING", "U": "UNLOADING", "X": "UNAVAILABLE"}


def index(text: str) -> tuple[IndexEntry, ...]:
    """Read such as ``a1R a2L``."""
    return tuple(
        IndexEntry(name=word[0], version=word[1:-1], state=STATES[word[-1]], reason="" if word[-1] == "R" else word)
        for word in text.split()
    )


def written(entries: list[IndexEntry]) -> str:
    letters = {state: letter for letter, state in STATES.items()}
    return " ".join(f"{entry.name}{entry.version}{letters[entry.state]}" for entry in entries)


CASES = [
    (["a1R"], "a1R"),
    (["a1R", "a1R"], "a1R"),
    (["a1R", "a1L"], "a1L"),
    (["a1R", "a1X", "a1L"], "a1L"),
    (["a1R", "a1X"], "a1X"),
    (["a1U", "a1X"], "a1U"),
    # Not met by all yet.
    (["a1R", ""], "a1L"),
    (["a1X", ""], "a1X"),
    (["a9R a10R b1R", "a9R a10R b1R"], "a9R a10R b1R"),
    # A swap goes through: the cascade answers all the while, and the version that is on its way is not there yet.
    (["a1R a2L", "a1R"], "a1R a2L"),
    (["a1U a2R", "a1R a2L"], "a1R a2L"),
    (["a1X a2R", "a1R"], "a1R a2L"),
    (["a1X a2R", "a1R a2X"], "a1R a2X"),
    (["a1X a2R", "a1X a2R"], "a1X a2R"),
    (["a9X a10R", "a9R a10L"], "a9R a10L"),
    # Another process has none: it does not answer everywhere.
    (["a1X a2R", "a1X a2L", "a1R"], "a1X a2L"),
    (["a1R b1R", "a1R b1U"], "a1R b1U"),
]


@pytest.mark.parametrize(("texts", "expected"), CASES)
def test_one_index_is_made_of_all(texts: list[str], expected: str) -> None:
    for order in (texts, texts[::-1]):
        assert written(combine([index(text) for text in order])) == expected


def test_reasons_go_with_the_state() -> None:
    assert [entry.reason for entry in combine([index("a1R"), index("a1X")])] == ["a1X"]
    assert [entry.reason for entry in combine([index("a1X a2R"), index("a1R a2X")])] == ["", "a2X"]


def test_what_answers_is_the_ready_version() -> None:
    assert served_versions(index("a1X a2R b7R c1L")) == {"a": 2, "b": 7}


def test_views_and_indexes_come_back_as_they_went() -> None:
    view = View(is_ready=True, others=(index("a1R a2L"), ()))
    assert View.unpack(view.pack()) == view
    assert unpack_index(pack_index(index("a1R a2U b3X"))) == index("a1R a2U b3X")
