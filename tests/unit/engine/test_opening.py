"""Which profiles an engine follows when it is opened, and what it can't be opened with."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from onnx_bundle import write_linear_bundle
from table_committee import Watcher, make_table_bench

from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Fingerprint
from cascade_serve.engine import committee
from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import Backend, OpeningConfig, _engine_name, _with_own_profiles, open_engine
from cascade_serve.errors import ConfigError

PROFILE = {1: 0.01, 32: 0.01}


Kind = Literal["cpu", "cuda"]


def profiled(tmp_path: Path, calibrated_on: str | None, device: Kind | None = None) -> Bundle:
    """A bundle whose members gain nothing from batches, by their profiles."""
    measured_on = None if calibrated_on is None else Fingerprint(engine=calibrated_on, precision="fp32")
    bundle = write_linear_bundle(tmp_path / "linear" / "1", tmp_path / "sources", measured_on=measured_on)
    members = tuple(replace(member, seconds=PROFILE, profiled_device=device) for member in bundle.plan.members)
    return replace(bundle, plan=replace(bundle.plan, members=members))


@pytest.mark.parametrize(
    ("calibrated_on", "profiled_device", "backend", "device", "is_own"),
    [
        ("onnxruntime", None, Backend.ONNX, Device.CPU, True),
        ("onnxruntime", "cpu", Backend.ONNX, Device.CPU, True),
        ("onnxruntime", "cuda", Backend.ONNX, Device.CPU, False),
        ("onnxruntime", "cuda", Backend.ONNX, Device.CUDA, True),
        ("onnxruntime", "cpu", Backend.ONNX, Device.CUDA, False),
        ("onnxruntime", None, Backend.ONNX, Device.CUDA, False),
        ("openvino", "cpu", Backend.OPENVINO, Device.CPU, True),
        ("onnxruntime", "cpu", Backend.OPENVINO, Device.CPU, False),
        # Its fp32 goes by ONNX Runtime's name.
        ("onnxruntime", "cuda", Backend.TENSORRT, Device.CUDA, False),
        ("torch", "cpu", Backend.TORCH, Device.CPU, True),
        ("torch", "cuda", Backend.TORCH, Device.CPU, False),
        ("torch", "cuda", Backend.TORCH, Device.CUDA, True),
        ("torch", "cpu", Backend.TORCH, Device.CUDA, False),
        ("onnxruntime", "cuda", Backend.TORCH, Device.CUDA, False),
        (None, None, Backend.ONNX, Device.CPU, True),
        (None, "cpu", Backend.TORCH, Device.CPU, True),
        (None, None, Backend.TORCH, Device.CUDA, False),
        (None, "cuda", Backend.TORCH, Device.CUDA, True),
    ],
)
def test_only_profiles_of_the_same_engine_on_the_same_kind_of_device_count(
    tmp_path: Path,
    calibrated_on: str | None,
    profiled_device: Kind | None,
    backend: Backend,
    device: Device,
    *,
    is_own: bool,
) -> None:
    plan = profiled(tmp_path, calibrated_on, profiled_device).plan
    config = OpeningConfig(backend=backend, device=device)
    kept = _with_own_profiles(plan, config, Fingerprint.of(_engine_name(backend, plan), plan.members))
    assert [member.seconds for member in kept.members] == [PROFILE if is_own else None] * 3
    assert [member.profiled_device for member in kept.members] == [profiled_device if is_own else None] * 3


def test_each_members_profile_counts_for_itself_and_on_any_device_of_its_kind(tmp_path: Path) -> None:
    plan = profiled(tmp_path, "torch", "cuda").plan
    plan = replace(plan, members=(replace(plan.members[0], profiled_device="cpu"), *plan.members[1:]))
    config = OpeningConfig(backend=Backend.TORCH, device=Device.CUDA, device_ids=(1, 3))
    kept = _with_own_profiles(plan, config, Fingerprint(engine="torch", precision="fp32"))
    assert [member.seconds for member in kept.members] == [None, PROFILE, PROFILE]


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
