import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from model_zoo.card import Card, CostCard, InputCard, ProvenanceCard, TaskCard, TrainingCard
from training.energy import Energy
from training.files import file_sha256
from training.report.contents import RunContents, read_contents
from training.report.sections import ranks
from training.report.sections.data_schedule import data_schedule_section
from training.report.sections.learning import learning_section
from training.report.sections.members import members_section
from training.report.sections.next_steps import next_section
from training.report.sections.policy import policy_section
from training.report.sections.ranks import ranks_section
from training.report.sections.selection import selection_section
from training.report.sections.selection_pictures import draw_classes, draw_rounds, draw_scores
from training.selection.subset import Subset
from training.selection.timing import PhaseSeconds, SelectionSeconds


@pytest.fixture(scope="module")
def contents(run_dir: Path) -> RunContents:
    return read_contents(run_dir)


def _without(contents: RunContents, *names: str) -> RunContents:
    return replace(contents, stages={name: stage for name, stage in contents.stages.items() if name not in names})


def _subset(*ids: int, score: str = "forgetting_events", seconds: float = 0.0) -> Subset:
    spent = SelectionSeconds(training=PhaseSeconds(wall_s=seconds), scoring=PhaseSeconds(wall_s=seconds / 2))
    return Subset(ids=ids, score=score, fraction=0.5, seed=0, data_sha256="0" * 64, seconds=spent)


def _export(contents: RunContents, zoo: Path, *, evaluations: int | None = None) -> Path:
    """Write a card of the first member as an export would, and give its folder."""
    member, facts = contents.trained[0]
    card = Card(
        name=member.name,
        architecture=member.architecture,
        task=TaskCard(height=8, width=8, channels=1, classes=("a", "b", "c")),
        input=InputCard(height=8, width=8, mean=(0.0,), std=(1.0,)),
        cost=CostCard(flops=123_000_000, macs=61_500_000, params=1, tool="test"),
        training=TrainingCard(seconds=facts.process_seconds, evaluations=evaluations or facts.evaluations),
        provenance=ProvenanceCard(weights="trained", train_sha256=facts.train_sha256),
    )
    folder = zoo / "tricky task" / member.name
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(card.to_json())
    return folder


def _note_export(run_dir: Path, folder: Path, contents: RunContents, tmp_path: Path) -> RunContents:
    """Read a run as if it had noted that export."""
    link = tmp_path / "run"
    link.mkdir()
    for path in run_dir.iterdir():
        if path.name != "exports.json":
            (link / path.name).symlink_to(path)
    (link / "exports.json").write_text(json.dumps({str(folder): file_sha256(folder / "card.json")}))
    return read_contents(link)


def test_flops_come_from_the_exported_card_and_the_next_step_is_a_plan(
    contents: RunContents, run_dir: Path, tmp_path: Path
) -> None:
    folder = _export(contents, tmp_path / "zoo")
    exported = _note_export(run_dir, folder, contents, tmp_path)
    section = members_section(exported)
    assert section is not None
    assert ">123M<" in section.body
    assert "known once a member is exported" not in section.body
    assert "cascade-serve plan &#x27;" in next_section(exported).body
    assert str(folder.parent) in next_section(exported).body


def test_a_card_of_another_training_does_not_count(contents: RunContents, run_dir: Path, tmp_path: Path) -> None:
    folder = _export(contents, tmp_path / "zoo", evaluations=1)
    exported = _note_export(run_dir, folder, contents, tmp_path)
    assert exported.members[0].card is None
    assert "cascade-train export" in next_section(exported).body


def test_a_zoo_that_is_gone_does_not_count(contents: RunContents, run_dir: Path, tmp_path: Path) -> None:
    folder = _export(contents, tmp_path / "zoo")
    exported = _note_export(run_dir, folder, contents, tmp_path)
    (folder / "card.json").unlink()
    assert exported.members[0].card is not None
    assert read_contents(exported.path).members[0].card is None


def test_without_a_zoo_flops_are_unknown_and_parameters_are_counted(contents: RunContents) -> None:
    section = members_section(contents)
    assert section is not None
    assert "known once a member is exported" in section.body
    # With ten classes digits_cnn_s has 1,466, of which seven are gone here, with 48 weights and a bias each.
    assert contents.members[1].num_params == 1466 - 7 * 49


def test_measured_energy_is_shown_with_its_tool(contents: RunContents) -> None:
    first = contents.members[0]
    assert first.facts is not None
    energy = Energy(joules=7200.0, co2_kg=0.0005, tool="codecarbon 3")
    measured = replace(first, facts=replace(first.facts, energy=energy))
    section = members_section(replace(contents, members=(measured, *contents.members[1:])))
    assert section is not None
    assert "7.2 kJ (2 Wh)" in section.body
    assert "500 mg" in section.body
    assert "measured by codecarbon 3" in section.body
    plain = members_section(contents)
    assert plain is not None
    assert "Energy was not measured" in plain.body


def test_validation_is_drawn_where_it_was_measured(contents: RunContents) -> None:
    first = contents.members[0]
    reports = tuple(replace(report, validation_accuracy=0.5) for report in first.reports)
    validated = learning_section(replace(contents, members=(replace(first, reports=reports),)))
    plain = learning_section(contents)
    assert validated is not None
    assert plain is not None
    assert "in validation" in validated.pictures[0].text
    assert "in validation" not in plain.pictures[0].text
    assert "No validation accuracy" in plain.body
    assert "No validation accuracy" not in validated.body


def test_a_filters_proxy_is_counted_beside(contents: RunContents) -> None:
    from training.proxy_filter import ProxyFilterConfig

    first = contents.members[0]
    assert first.facts is not None
    loop = replace(first.facts.config.loop, proxy_filter=ProxyFilterConfig(architecture="digits_cnn_xs"))
    facts = replace(first.facts, config=replace(first.facts.config, loop=loop))
    reports = tuple(replace(report, proxy_evaluations=7777) for report in first.reports)
    section = data_schedule_section(replace(contents, members=(replace(first, facts=facts, reports=reports),)))
    assert section is not None
    assert "by the filter&#x27;s proxy" in section.body
    assert "7,777" in section.body


def test_sections_of_stages_that_are_not_there_are_left_out(contents: RunContents) -> None:
    bare = replace(_without(contents, "policy", "selection", "evaluation"), members=())
    assert members_section(bare) is None
    assert learning_section(bare) is None
    assert data_schedule_section(bare) is None
    assert selection_section(bare) is None
    assert policy_section(bare) is None
    assert ranks_section(bare) is None


def test_a_given_subset_is_told_without_its_stage(contents: RunContents) -> None:
    section = selection_section(_without(contents, "selection"))
    assert section is not None
    assert "a subset that was given as a file" in section.body
    assert "forgetting_events" in section.body
    assert section.pictures == ()


def test_a_given_schedule_is_drawn_without_its_stage(contents: RunContents) -> None:
    section = policy_section(_without(contents, "policy"))
    assert section is not None
    assert "not searched in this run" in section.body
    assert [picture.name for picture in section.pictures] == ["policy_schedule"]


def test_a_member_with_broken_logits_has_no_rank(contents: RunContents, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    broken = np.full((9, 3), np.nan, dtype=np.float32)
    monkeypatch.setattr(ranks, "_read_logits", lambda *_: {"a": logits, "b": 2 * logits, "c": broken})
    section = ranks_section(contents)
    assert section is not None
    assert "not finite: c." in section.body
    assert len(section.pictures) == 3
    monkeypatch.setattr(ranks, "_read_logits", lambda *_: {"a": logits, "c": broken})
    assert ranks_section(contents) is None


@pytest.mark.parametrize(
    "scores",
    [[0, 1, 2, np.inf], [0.25, 0.5, 0.75, 1.0], [3, 3, 3, 3], [np.inf] * 4, [0, 1000, 2000, np.inf], [0.5] * 4],
)
def test_scores_of_all_kinds_are_drawn_and_none_is_lost(scores: list[float]) -> None:
    is_kept = np.array([False, True, True, True])
    picture = draw_scores(np.array(scores, dtype=np.float32), is_kept, _subset(1, 2, 3))
    bars = [bar for bar in picture.figure.axes[0].patches if isinstance(bar, Rectangle)]
    assert sum(bar.get_height() for bar in bars) == 4
    assert picture.html()
    assert ("never had right" in picture.caption) == bool(np.isinf(scores).any())


@pytest.mark.parametrize("num_classes", [2, 60])
def test_classes_few_and_many_are_drawn(num_classes: int) -> None:
    counts = np.full(num_classes, 10)
    kept = np.arange(num_classes) % 10
    picture = draw_classes(tuple(f"$c{number}" for number in range(num_classes)), counts, kept)
    assert picture.html()
    assert "least of $c0, 0.0 %" in picture.text


def test_rounds_are_summed_up_over_time() -> None:
    rounds = [_subset(1), _subset(1, 2, seconds=2.0), _subset(1, 2, 3, seconds=5.0)]
    picture = draw_rounds(rounds)
    assert "from 1 to 3 labelled images: in the end 7.50 s" in picture.text
    assert picture.html()
