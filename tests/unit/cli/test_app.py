"""Where a command's output goes wrong: no traceback, and an exit code that scripts can go by."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "cascade_serve", "--help"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(COMMAND, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")


def test_a_reader_that_has_enough_is_no_error() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["cascade_serve", "plan"], "Members to choose from. [default: all]"),
        (["cascade_serve", "zoo", "add"], "[default: random]"),
        (["training", "run"], "[default: runs/<recipe>]"),
    ],
)
def test_defaults_in_words_are_no_markup(words: list[str], shown: str) -> None:
    command = [sys.executable, "-m", *words, "--help"]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=True, env={**os.environ, "COLUMNS": "250"}
    )
    assert shown in done.stdout
