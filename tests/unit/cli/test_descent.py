"""What a card knows of its member's descent, in words."""

import pytest
from pydantic import JsonValue

from cascade_serve.cli.console import table_console
from cascade_serve.cli.descent import descent_facts, describe
from cascade_serve.cli.plan_output import descent_table
from model_zoo.card import Card, CostCard, InputCard, ProvenanceCard, TaskCard, TrainingCard

SELECTION: JsonValue = {
    "score": "margin",
    "fraction": 0.5,
    "subset_size": 300,
    "proxy": {"architecture": "digits_cnn_xs", "epochs": 5},
}


def make_card(training: TrainingCard | None = None, **provenance: JsonValue) -> Card:
    return Card(
        name="small",
        architecture="digits_cnn_s",
        task=TaskCard(height=8, width=8, channels=1, classes=("a", "b")),
        input=InputCard(height=8, width=8, mean=(0.5,), std=(0.5,)),
        cost=CostCard(flops=10, macs=5, params=3, tool="by hand"),
        training=training,
        provenance=ProvenanceCard.model_validate({"weights": "trained", **provenance}),
    )


def test_a_whole_descent() -> None:
    card = make_card(
        TrainingCard(
            seconds=12.34, wall_seconds=7.0, evaluations=12_000, energy_joules=1500.4, co2_kg=0.01, device="cpu"
        ),
        selection=SELECTION,
        policy_schedule={"origin": "search", "segments": 4},
        data_schedule={"kind": "step", "fixed": False},
        seeds=[3, 4],
        train_sha256="ab",
    )
    assert list(descent_facts(card)) == [
        ("proxy", "architecture digits_cnn_xs, epochs 5"),
        ("subset", "score margin, fraction 0.5, subset size 300"),
        ("policy schedule", "origin search, segments 4"),
        ("data schedule", "kind step, fixed no"),
        ("training", "12,000 evaluations, 12.3 s of process time, 7.0 s in all, 1,500 J, 0.01 kg CO2, on cpu"),
        ("seeds", "3, 4"),
        ("training data", "ab"),
    ]


def test_nothing_is_said_of_what_nobody_knows() -> None:
    assert list(descent_facts(make_card())) == []
    assert list(descent_facts(make_card(TrainingCard()))) == [("training", "-")]


def test_a_selection_in_the_trainers_own_words() -> None:
    assert list(descent_facts(make_card(selection="by hand"))) == [("subset", "by hand")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "-"),
        ({"a": {"b": [1, 2.0, None]}, "on": True}, "a (b [1, 2, none]), on yes"),
        (list(range(11)), "[0, 1, 2, 3, 4, 5, 6, 7, ... 3 more]"),
        (0.123456, "0.1235"),
        ("x" * 300, "x" * 200 + "..."),
    ],
)
def test_json_on_one_line(value: JsonValue, text: str) -> None:
    assert describe(value) == text


def test_the_table_names_each_member_once_and_takes_no_markup() -> None:
    cards = {"small": make_card(selection="[red]odd[/red]", seeds=[1]), "bare": None, "large": make_card(seeds=[2])}
    console = table_console()
    with console.capture() as captured:
        console.print(descent_table(cards))
    shown = captured.get()
    assert shown.count("small") == shown.count("large") == 1
    assert "bare" not in shown
    assert "[red]odd[/red]" in shown
