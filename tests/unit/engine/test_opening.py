"""Which profiles an engine follows when it is opened, and what it can't be opened with."""

from dataclasses import replace
from pathlib import Path

import pytest
from onnx_bundle import write_linear_bundle
from table_committee import Watcher, make_table_bench

from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Fingerprint
from cascade_serve.engine import committee
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import Backend, OpeningConfig, _with_own_profiles, open_engine
from cascade_serve.errors import ConfigError

PROFILE = {1: 0.01, 32: 0.01}


def profiled(tmp_path: Path, calibrated_on: str | None) -> Bundle:
    """A bundle whose members gain nothing from batches, by their profiles."""
    measured_on = None if calibrated_on is None else Fingerprint(engine=calibrated_on, precision="fp32")
    bundle = write_linear_bundle(tmp_path / "linear" / "1", tmp_path / "sources", measured_on=measured_on)
    members = tuple(replace(member, seconds=PROFILE) for member in bundle.plan.members)
    return replace(bundle, plan=replace(bundle.plan, members=members))


@pytest.mark.parametrize(
    ("calibrated_on", "backend", "device", "is_own"),
    [
        ("onnxruntime", Backend.ONNX, Device.CPU, True),
        ("openvino", Backend.OPENVINO, Device.CPU, True),
        (None, Backend.ONNX, Device.CPU, True),
        ("onnxruntime", Backend.ONNX, Device.CUDA, False),
        ("onnxruntime", Backend.OPENVINO, Device.CPU, False),
        ("onnxruntime", Backend.TORCH, Device.CUDA, False),
        (None, Backend.TORCH, Device.CPU, False),
    ],
)
def test_only_profiles_of_the_same_engine_on_a_cpu_count(
    tmp_path: Path, calibrated_on: str | None, backend: Backend, device: Device, *, is_own: bool
) -> None:
    plan = profiled(tmp_path, calibrated_on).plan
    engine = {Backend.ONNX: "onnxruntime"}.get(backend, backend.value)
    config = OpeningConfig(backend=backend, device=device)
    kept = _with_own_profiles(plan, config, Fingerprint(engine=engine, precision="fp32"))
    assert [member.seconds for member in kept.members] == [PROFILE if is_own else None] * 3


@pytest.mark.parametrize(("backend", "is_own"), [(Backend.ONNX, True), (Backend.OPENVINO, False)])
def test_an_engine_is_opened_with_them(tmp_path: Path, backend: Backend, *, is_own: bool) -> None:
    config = OpeningConfig(backend=backend, allow_uncertified=True)
    engine = open_engine(profiled(tmp_path, "onnxruntime"), config, make_table_bench().watcher)
    assert [member.seconds for member in engine.plan.members] == [PROFILE if is_own else None] * 3
    engine.close()


def test_rows_that_no_memory_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_arguments: object) -> None:
        raise MemoryError("9 GiB")

    monkeypatch.setattr(committee, "Slab", fill)
    with pytest.raises(ConfigError, match=r"max_queue_rows: got 1024; this machine has no memory .*9 GiB"):
        open_engine(profiled(tmp_path, None), OpeningConfig(), Watcher())
