"""Bundles on disk: whole or not there, verified file by file, and deaf to path tricks."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cascade_serve.bundle import load_bundle, plan_to_json, read_plan, sha256_file, verify_files, write_bundle
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.cost import Cost
from cascade_serve.core.plan import (
    Calibration,
    Certificate,
    Fingerprint,
    Member,
    Plan,
    Policy,
    Promise,
    Stage,
    Task,
)
from cascade_serve.errors import BundleError

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
needs_a_common_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def _policies() -> dict[str, Policy]:
    certificate = Certificate(
        promise=Promise.MIN_ACCURACY,
        bound=0.9,
        level=0.95,
        lower_bound=0.91,
        n=500,
        reference=None,
        data_sha256="cd" * 32,
    )
    default = Policy(
        name="default",
        stages=(Stage(member="klein-小", threshold=0.85), Stage(member="groß")),
        worst_case_flops=11,
        expected_flops=4.5,
        accuracy=0.93,
        accuracy_interval=(0.91, 0.95),
        exit_shares=(0.7, 0.3),
        certificate=certificate,
    )
    return {"default": default, "fast": Policy(name="fast", stages=(Stage(member="klein-小"),), worst_case_flops=1)}


def _plan(files: Mapping[str, Mapping[str, str]]) -> Plan:
    return Plan(
        task=Task(height=2, width=2, channels=1, classes=("Äpfel", "梨")),
        members=(
            Member(name="klein-小", flops=1, temperature=1.25, files=files["klein-小"]),
            Member(name="groß", flops=10, precision="int8", files=files["groß"]),
        ),
        combine=Combine.MEAN_LOGITS,
        confidence=Confidence.MARGIN,
        policies=_policies(),
        reference="groß",
        calibration=Calibration(
            n=1000,
            n_search=500,
            n_test=500,
            data_sha256="ef" * 32,
            seed=7,
            fingerprint=Fingerprint(engine="onnxruntime", precision="fp32+int8"),
        ),
    )


class Zoo:
    """Two members' folders, and the plan that names their files."""

    def __init__(self, root: Path) -> None:
        self.folders = {name: root / "zoo" / name for name in ("klein-小", "groß")}
        for name, folder in self.folders.items():
            (folder / "data").mkdir(parents=True)
            (folder / "model.onnx").write_bytes(b"graph of " + name.encode())
            (folder / "data" / "weights.bin").write_bytes(name.encode() * 1000)
        self.plan = _plan({name: self.checksums(name) for name in self.folders})

    def checksums(self, name: str) -> dict[str, str]:
        folder = self.folders[name]
        return {relative: sha256_file(folder / relative) for relative in ("model.onnx", "data/weights.bin")}

    def with_files(self, files: Mapping[str, str]) -> Plan:
        return replace(self.plan, members=(replace(self.plan.members[0], files=files), self.plan.members[1]))


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path)


@pytest.fixture
def bundle_path(zoo: Zoo, tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "repository" / "obst" / "3", zoo.plan, zoo.folders).path


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == SHA256_OF_ABC


def test_sha256_of_a_file_longer_than_a_chunk(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"a" * 1_000_000 + b"a" * 100_000)
    (tmp_path / "other").write_bytes(b"a" * 1_099_999 + b"b")
    assert sha256_file(tmp_path / "long") != sha256_file(tmp_path / "other")


def test_plan_comes_back_from_json_unchanged(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(plan_to_json(zoo.plan))
    assert read_plan(path) == zoo.plan


def test_a_plan_made_by_hand_comes_back_too(zoo: Zoo, tmp_path: Path) -> None:
    policy = Policy(name="default", stages=(Stage(member="groß"),), worst_case_flops=10)
    by_hand = replace(zoo.plan, policies={"default": policy}, reference=None, calibration=None)
    path = tmp_path / "plan.json"
    path.write_bytes(plan_to_json(by_hand))
    assert read_plan(path) == by_hand


def test_a_plan_in_seconds_comes_back_too(zoo: Zoo, tmp_path: Path) -> None:
    small, large = zoo.plan.members
    default = replace(zoo.plan.policies["default"], expected_seconds=0.00125)
    in_seconds = replace(
        zoo.plan,
        members=(replace(small, seconds={1: 0.001, 32: 0.0005}, profiled_device="cuda"), large),
        policies={"default": default},
        cost=Cost.SECONDS,
        cost_batch_size=32,
    )
    path = tmp_path / "plan.json"
    path.write_bytes(plan_to_json(in_seconds))
    assert read_plan(path) == in_seconds


def test_a_plan_from_before_seconds_is_read(zoo: Zoo, tmp_path: Path) -> None:
    raw = json.loads(plan_to_json(zoo.plan))
    del raw["cost"], raw["cost_batch_size"]
    for member in raw["members"]:
        del member["seconds"], member["profiled_device"]
    for policy in raw["policies"].values():
        del policy["expected_seconds"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    plan = read_plan(path)
    assert plan == zoo.plan
    assert (plan.cost, plan.cost_batch_size) == (Cost.FLOPS, None)
    assert (plan.members[0].seconds, plan.members[0].profiled_device) == (None, None)


def test_write_then_load(zoo: Zoo, tmp_path: Path) -> None:
    target = tmp_path / "repository" / "obst" / "3"
    written = write_bundle(target, zoo.plan, zoo.folders)
    loaded = load_bundle(target)
    assert loaded == written
    assert (loaded.name, loaded.version, loaded.path, loaded.plan) == ("obst", 3, target, zoo.plan)
    assert (loaded.member_path("groß") / "model.onnx").read_bytes() == "graph of groß".encode()
    assert [path.name for path in target.parent.iterdir()] == ["3"]


def test_a_bundle_does_not_need_the_zoo_any_more(zoo: Zoo, bundle_path: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "zoo")
    moved = tmp_path / "elsewhere" / "obst" / "4"
    moved.parent.mkdir(parents=True)
    bundle_path.rename(moved)
    assert load_bundle(moved).version == 4


def test_a_relative_path_is_taken(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_bundle(Path("obst/1"), zoo.plan, zoo.folders).path == tmp_path / "obst" / "1"
    monkeypatch.chdir(tmp_path / "obst" / "1")
    assert load_bundle(Path()).name == "obst"


def test_an_existing_target_is_refused_and_untouched(zoo: Zoo, bundle_path: Path) -> None:
    before = sorted(bundle_path.rglob("*"))
    message = f"{bundle_path}: exists already; bundles are immutable, so choose the next version"
    with pytest.raises(BundleError, match=f"^{re.escape(message)}$"):
        write_bundle(bundle_path, zoo.plan, zoo.folders)
    assert sorted(bundle_path.rglob("*")) == before


@pytest.mark.parametrize("version", ["0", "-1", "v1", "1.0", "01", "٣", "latest", "9" * 30])
def test_a_version_is_a_positive_integer(zoo: Zoo, bundle_path: Path, version: str) -> None:
    path = bundle_path.with_name(version)
    message = f"{path}: version: got {version!r}; must be a positive integer, such as 1"
    with pytest.raises(BundleError, match=f"^{re.escape(message)}$"):
        write_bundle(path, zoo.plan, zoo.folders)
    assert not path.exists()
    bundle_path.rename(path)
    with pytest.raises(BundleError, match=f"^{re.escape(message)}$"):
        load_bundle(path)


@pytest.mark.parametrize("cascade", [".hidden", "a\nb", "a\udcffb"])
def test_a_cascade_that_no_server_would_look_at_is_not_written(zoo: Zoo, tmp_path: Path, cascade: str) -> None:
    message = f"cascade: got {cascade!r}; must be printable and not start with a dot"
    with pytest.raises(BundleError, match=re.escape(message)):
        write_bundle(tmp_path / cascade / "1", zoo.plan, zoo.folders)
    assert not (tmp_path / cascade).exists()


def test_a_tampered_file_is_refused(zoo: Zoo, bundle_path: Path) -> None:
    path = bundle_path / "members" / "groß" / "data" / "weights.bin"
    expected = sha256_file(path)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(BundleError, match=f"^{re.escape(str(path))}: sha256: got [0-9a-f]{{64}}; must be {expected}$"):
        load_bundle(bundle_path)


def test_a_missing_file_is_refused(bundle_path: Path) -> None:
    path = bundle_path / "members" / "groß" / "model.onnx"
    path.unlink()
    with pytest.raises(BundleError, match=f"^{re.escape(str(path))}: No such file or directory$"):
        load_bundle(bundle_path)


def test_a_folder_in_place_of_a_file_is_refused(bundle_path: Path) -> None:
    path = bundle_path / "members" / "groß" / "model.onnx"
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match=f"^{re.escape(str(path))}: Is a directory$"):
        load_bundle(bundle_path)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    path = tmp_path / "obst" / "1" / "plan.json"
    with pytest.raises(BundleError, match=f"^{re.escape(str(path))}: No such file or directory$"):
        load_bundle(path.parent)


def test_a_member_without_a_graph_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    files = {"data/weights.bin": zoo.checksums("klein-小")["data/weights.bin"]}
    with pytest.raises(BundleError, match=r"member 'klein-小' names no model\.onnx$"):
        write_bundle(tmp_path / "obst" / "1", zoo.with_files(files), zoo.folders)
    assert list((tmp_path / "obst").iterdir()) == []


@pytest.mark.parametrize("trick", ["../outside.bin", "data/../../outside.bin", "{root}/outside.bin", "a\0b"])
def test_files_outside_the_folder_are_neither_written_nor_read(zoo: Zoo, tmp_path: Path, trick: str) -> None:
    outside = tmp_path / "zoo" / "outside.bin"
    outside.write_bytes(b"abc")
    relative = trick.format(root=tmp_path)
    plan = zoo.with_files({**zoo.checksums("klein-小"), relative: SHA256_OF_ABC})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match="lies outside"):
        write_bundle(tmp_path / "repository" / "1", plan, zoo.folders)
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "repository"}
    with pytest.raises(BundleError, match="lies outside"):
        verify_files(zoo.folders["klein-小"], {relative: SHA256_OF_ABC})


def test_a_link_that_leads_outside_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    path = bundle_path / "members" / "groß" / "model.onnx"
    twin = tmp_path / "twin.onnx"
    path.rename(twin)
    path.symlink_to(twin)
    with pytest.raises(BundleError, match=r"model\.onnx: lies outside"):
        load_bundle(bundle_path)


def test_a_source_that_is_not_what_the_plan_says_leaves_nothing_visible(zoo: Zoo, tmp_path: Path) -> None:
    (zoo.folders["groß"] / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleError, match="sha256"):
        write_bundle(tmp_path / "obst" / "1", zoo.plan, zoo.folders)
    assert list((tmp_path / "obst").iterdir()) == []


def test_a_source_that_is_missing_leaves_nothing_visible(zoo: Zoo, tmp_path: Path) -> None:
    path = zoo.folders["groß"] / "model.onnx"
    path.unlink()
    with pytest.raises(BundleError, match=f"^{re.escape(str(path))}: No such file or directory$"):
        write_bundle(tmp_path / "obst" / "1", zoo.plan, zoo.folders)
    assert list((tmp_path / "obst").iterdir()) == []


def test_an_interrupted_write_leaves_nothing_visible(zoo: Zoo, tmp_path: Path) -> None:
    class Interrupting(dict[str, Path]):
        def __getitem__(self, name: str) -> Path:
            if name == "groß":
                assert list((tmp_path / "obst").glob("[!.]*")) == []  # while it is written, nothing is seen
                raise KeyboardInterrupt
            return super().__getitem__(name)

    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "obst" / "1", zoo.plan, Interrupting(zoo.folders))
    assert list((tmp_path / "obst").iterdir()) == []


def test_what_a_killed_writer_left_behind_is_no_hindrance(zoo: Zoo, tmp_path: Path) -> None:
    left = tmp_path / "obst" / ".1.deadbeef.partial"
    left.mkdir(parents=True)
    assert write_bundle(tmp_path / "obst" / "1", zoo.plan, zoo.folders).version == 1


def test_a_file_in_the_way_of_a_folder(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "obst").write_bytes(b"")
    with pytest.raises(BundleError, match=r"^.*obst.*: (Not a directory|File exists)$"):
        write_bundle(tmp_path / "obst" / "1", zoo.plan, zoo.folders)


@needs_a_common_user
def test_a_repository_that_may_not_be_written(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "obst").mkdir(mode=0o500)
    with pytest.raises(BundleError, match=r"Permission denied$"):
        write_bundle(tmp_path / "obst" / "1", zoo.plan, zoo.folders)


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda plan: plan.update(colour="red"), "colour"),
    (lambda plan: plan["members"][0].update(colour="red"), "colour"),
    (lambda plan: plan["policies"]["fast"]["stages"][0].update(colour="red"), "colour"),
    (lambda plan: plan.update(schema_version=2), "schema_version: got 2; must be 1"),
    (lambda plan: plan.update(combine="median"), "combine"),
    (lambda plan: plan.pop("task"), "task"),
    (lambda plan: plan["members"][0].update(flops="many"), "flops"),
    (lambda plan: plan["members"][0].update(profiled_device="tpu"), "profiled_device"),
    (lambda plan: plan["members"][0].update(name="../klein"), "member name: got '../klein'"),
    (lambda plan: plan["policies"].pop("default"), "must hold 'default'"),
    (lambda plan: plan["policies"]["fast"].update(worst_case_flops=2), "its stages sum to 1"),
    (
        lambda plan: plan["policies"]["default"]["stages"][0].update(threshold=1.5),
        "threshold: got 1.5; must be between 0 and 1",
    ),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_plan_of_another_shape_is_refused(
    zoo: Zoo, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    fields = json.loads(plan_to_json(zoo.plan))
    change(fields)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=f"(?s)^{re.escape(str(path))}: .*{re.escape(words)}"):
        read_plan(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"task": NaN'])
def test_a_plan_that_is_no_json_object(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text)
    with pytest.raises(BundleError, match=f"^{re.escape(str(path))}: "):
        read_plan(path)
