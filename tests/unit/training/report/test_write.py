import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from reported_run import CLASSES, CORRUPT

from training.errors import ReportError, RunDirError, SelectionError
from training.files import file_sha256
from training.pipeline.evaluation_stage import read_accuracy
from training.pipeline.member_stage import read_facts
from training.report import write_report
from training.report.contents import LOG_FILE, read_contents
from training.report.page import make_page
from training.report.pictures import PictureName
from training.report.sections.data_schedule import data_schedule_section, images_an_epoch
from training.report.sections.members import members_section
from training.report.sections.next_steps import next_section
from training.report.sections.policy import policy_section
from training.report.sections.run import run_section
from training.report.sections.selection import selection_section
from training.run_dir import RunDir

_VOID = {"meta", "br"}
_FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action"}


class _Reader(HTMLParser):
    """Checks that every element is closed, and gathers what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")
        ]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert not reader.open
    return reader


@pytest.fixture
def copied(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def test_the_page_stands_alone(page: str) -> None:
    reader = _read(page)
    assert all(target.startswith(("#", "data:")) for target in reader.fetched)
    assert not {"script", "link", "iframe", "img", "b", "i"} & reader.tags
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert page.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_ids_are_unique_and_links_lead_to_them(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in _read(page).fetched if link.startswith("#")} <= set(ids)


def test_all_sections_are_there_and_in_order(page: str) -> None:
    assert re.findall(r'<section id="(\w+)"', page) == [
        "run", "members", "learning", "selection", "policy", "evaluations", "ranks", "descent", "next",
    ]  # fmt: skip
    assert "All that was asked for is done." in page


def test_pictures_lie_beside_the_page_as_png_files(report: Path) -> None:
    found = {path.stem for path in report.parent.glob("*.png")}
    assert found == set(PictureName) - {PictureName.SELECTION_STUDY, PictureName.SELECTION_ROUNDS}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.parent.glob("*.png"))


def test_every_picture_has_words_for_those_who_cannot_see_it(page: str) -> None:
    assert page.count('<svg role="img"') == len(re.findall(r'<svg role="img"[^>]*><title>[^<]{20,}</title>', page))
    assert page.count("<figcaption>") == len(set(PictureName)) - 2


def test_names_of_users_are_escaped(page: str) -> None:
    assert "&lt;b onclick=" in page
    assert "one&quot; &amp; $x_" in page
    assert "tricky &lt;recipe&gt;" in page
    assert "two/&lt;i&gt;broken.png" in page
    for name in (*CLASSES[:2], CORRUPT, "<recipe>"):
        assert name not in page


def test_accuracies_are_shown_with_their_intervals(page: str, run_dir: Path) -> None:
    accuracy = read_accuracy(RunDir(run_dir).find("evaluation"))
    for parts in accuracy.values():
        for found in parts.values():
            low, high = found.interval
            assert f"{100 * found.top1:.2f} % [{100 * low:.1f}, {100 * high:.1f}]" in page


def test_evaluations_and_what_was_saved_of_them(run_dir: Path) -> None:
    contents = read_contents(run_dir)
    assert contents.data is not None
    train = contents.data.images["train"]
    kept = read_facts(RunDir(run_dir).find("member-large")).num_images
    half = int(kept / 2 + 0.5)
    small, large = contents.members
    assert images_an_epoch(small) == [kept] * 4
    assert images_an_epoch(large) == [half, half, kept, kept]
    section = data_schedule_section(contents)
    assert section is not None
    by_subset, saved = 1 - kept / train, 1 - (2 * half + 2 * kept) / (4 * train)
    row = section.body.partition('<th scope="row">large</th>')[2].partition("</tr>")[0]
    cells = re.findall(r"<td[^>]*>(?:<code>)?([^<]*)", row)
    assert cells == [
        "step:0.5:0.5", str(kept), "4", f"{4 * train:,}", f"{2 * half + 2 * kept:,}", f"{100 * by_subset:.1f} %",
        f"{100 * (saved - by_subset):.1f} %", f"{100 * saved:.1f} %",
    ]  # fmt: skip
    assert "by the proxy of the selection" in section.body
    assert "in the search for a policy" in section.body


def test_a_selection_states_no_speed_up_and_counts_classes(run_dir: Path) -> None:
    section = selection_section(read_contents(run_dir))
    assert section is not None
    assert "No speed-up is stated" in section.body
    assert "digits_cnn_xs" in section.body
    counts = re.findall(r"</th><td class=\"number\">(\d+)</td>", section.body.partition("Classes in numbers")[2])
    contents = read_contents(run_dir)
    assert contents.data is not None
    assert sum(map(int, counts)) == contents.data.images["train"]


def test_the_search_is_told_with_its_lineage(run_dir: Path) -> None:
    section = policy_section(read_contents(run_dir))
    assert section is not None
    assert "by which it was chosen: it flatters" in section.body
    ends = re.findall(r'<th scope="row">(\d+) to (\d+)</th>', section.body)
    assert (ends[0][0], ends[-1][1]) == ("1", "4")
    assert all(int(before[1]) + 1 == int(after[0]) for before, after in pairwise(ends))


def test_files_left_out_are_listed(run_dir: Path) -> None:
    section = run_section(read_contents(run_dir))
    assert "1 file left out" in section.body


def test_the_descent_names_every_stage_and_output(page: str, run_dir: Path) -> None:
    for name in RunDir(run_dir).finished():
        record = RunDir(run_dir).find(name).record
        assert f'<th scope="row">{name}</th>' in page
        assert record.outputs_sha256[:10] in page


def test_the_same_run_gives_the_same_page(copied: Path) -> None:
    pages = []
    for _ in range(2):
        contents = read_contents(copied)
        sections = [section for make in (run_section, members_section) if (section := make(contents)) is not None]
        pages.append(make_page(contents, sections))
    assert pages[0] == pages[1]


def test_without_a_cluster_of_files_only_what_is_there_is_told(copied: Path, tmp_path: Path) -> None:
    for stage in ("evaluation", "member-large", "policy"):
        shutil.rmtree(copied / stage)
    # What the remaining member has read is gone: it is outdated, and its selection is not.
    (tmp_path / "out").mkdir()
    old = tmp_path / "out" / "ranks_entropy.png"
    old.write_bytes(b"of an older report")
    page = write_report(copied, tmp_path / "out").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', page) == ["run", "members", "selection", "descent", "next"]
    assert "policy (not begun), member-small (outdated), member-large (not begun), evaluation (not begun)" in page
    assert "The members of this run have not been trained on it." in page
    assert "goes on" in page
    assert not old.exists()
    _read(page)


def test_a_training_on_its_way_shows_its_epochs_so_far(copied: Path) -> None:
    (copied / "member-large").rename(copied / "member-large.partial")
    partial = copied / "member-large.partial"
    (partial / "scratch").mkdir()
    (partial / "done.json").unlink()
    lines = (partial / LOG_FILE).read_text().splitlines()
    (partial / "scratch" / LOG_FILE).write_text("\n".join([*lines[:3], lines[3][:25]]))
    contents = read_contents(copied)
    large = contents.members[1]
    assert [report.epoch for report in large.reports] == [1, 2, 3]
    assert large.facts is None
    section = members_section(contents)
    assert section is not None
    assert "unfinished: 3 of 4 epochs" in section.body
    assert [stage.name for stage in contents.open_stages] == ["member-large", "evaluation"]


def _damage_weights(run_dir: Path) -> None:
    (run_dir / "member-small" / "weights.safetensors").write_bytes(b"x")


def _damage_record(run_dir: Path) -> None:
    (run_dir / "selection" / "done.json").write_text("{")


def _damage_run_file(run_dir: Path) -> None:
    (run_dir / "run.json").write_text("{}")


def _empty_config(run_dir: Path) -> None:
    content = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({**content, "config": {"source": {}}}))


def _damage_exports(run_dir: Path) -> None:
    (run_dir / "exports.json").write_text("[")


def _remove_run_file(run_dir: Path) -> None:
    (run_dir / "run.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage_weights, r"member-small: output weights\.safetensors is not what it was"),
        (_damage_record, r"selection/done\.json: damaged"),
        (_damage_run_file, r"run\.json: damaged"),
        (_empty_config, r"run\.json: config: got no device, members, seed, splits, threads; must be"),
        (_damage_exports, r"exports\.json: can't be read"),
        (_remove_run_file, r"run\.json: No such file or directory; must be the folder of a run"),
    ],
)
def test_damage_is_named(copied: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copied)
    with pytest.raises(RunDirError, match=message):
        write_report(copied)
    assert not (copied / "report").exists()


def test_a_result_of_another_version_is_named(copied: Path) -> None:
    from training.run_record import json_sha256

    path = copied / "member-small" / "done.json"
    content = json.loads(path.read_text())
    del content["sha256"], content["result"]["evaluations"]
    path.write_text(json.dumps({**content, "sha256": json_sha256(content)}))
    with pytest.raises(RunDirError, match=r"member-small/done\.json: result: evaluations.*: run the stage again"):
        read_contents(copied)


def test_a_damaged_study_is_named(copied: Path) -> None:
    (copied / "study.json").write_text("{")
    with pytest.raises(SelectionError, match=r"study\.json"):
        selection_section(read_contents(copied))


def test_a_report_that_can_not_be_written_says_where(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.report.write._SECTIONS", (run_section,))
    (copied / "report").write_text("a file where the folder should be")
    with pytest.raises(ReportError, match=r"report"):
        write_report(copied)


def test_the_report_leaves_the_run_as_it_was(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.report.write._SECTIONS", (run_section,))
    before = {path: file_sha256(path) for path in copied.rglob("*") if path.is_file()}
    assert write_report(copied) == copied / "report" / "report.html"
    assert {path: file_sha256(path) for path in before} == before
    assert RunDir(copied).finished() == ("data", "evaluation", "member-large", "member-small", "policy", "selection")


def test_a_run_with_all_done_goes_on_with_export(run_dir: Path) -> None:
    section = next_section(read_contents(run_dir))
    assert "cascade-train export" in section.body


def test_a_selection_alone_goes_on_with_training(copied: Path) -> None:
    content = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**content, "command": "select", "members": {}}))
    contents = read_contents(copied)
    assert not contents.open_stages
    assert members_section(contents) is None
    assert "--subset" in next_section(contents).body
    assert "selection/subset.json" in next_section(contents).body
