"""The comparison of runtimes on a GPU, with the CPU in its place."""

import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import onnx_runtime
from benchmarks.gpu.pairs import Pair
from cascade_serve.engine.onnx import CPU_PROVIDER, Placement
from cascade_serve.errors import ConfigError
from model_zoo.graph import BATCH_NAME


@pytest.mark.slow
def test_every_runtime_has_its_rows_in_one_table() -> None:
    seen: list[tuple[str, int, bool]] = []

    def on_cpu(folder: Path, precision: str, rows: int) -> Placement:
        seen.append((precision, rows, folder.is_dir()))
        # A graph of the zoo takes a fixed batch, as TensorRT gets it.
        return Placement(providers=(CPU_PROVIDER,), fixed_batch=(BATCH_NAME, rows))

    def nowhere(_folder: Path, _precision: str, _rows: int) -> Placement:
        raise ConfigError("it is not here\nsecond line")

    pair = Pair(networks=("digits_cnn_s", "digits_cnn_s"), size=8, batch_size=2)
    rows = list(onnx_runtime.rows_of("pair", pair, {"here": on_cpu, "elsewhere": nowhere}, 0.01))
    assert [row[:3] for row in rows] == [
        ["pair", runtime, precision] for precision in ("fp32", "fp16") for runtime in ("here", "elsewhere")
    ]
    assert all(len(row) == len(onnx_runtime.HEAD) for row in rows)
    assert [row[5] for row in rows[1::2]] == ["it is not here"] * 2
    assert all(isinstance(cell, int) and cell > 0 for row in rows[::2] for cell in row[3:5])
    assert seen == [("fp32", 2, True)] * 2 + [("fp16", 2, True)] * 2


def test_the_cascade_is_reckoned_from_both() -> None:
    row = onnx_runtime.row_of("pair", "runtime", "fp32", (1000.0, 200.0))
    assert row == ["pair", "runtime", "fp32", 1000, 200, "500 at 80% exits"]


def test_the_script_runs_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--device cpu --pairs resnet --precisions fp32 --seconds 0.3 --batch-size 2 --threads 1 --lanes 1"
    monkeypatch.setattr(sys, "argv", ["gpu", *options.split()])
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")
    gpu.main()
    output = capsys.readouterr().out
    assert "### resnet, fp32: what the second stage costs" in output
    assert "| resnet | torch, graph replays, no copies | fp32 |" in output
