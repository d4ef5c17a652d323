"""Engines that are closed after the test."""

from collections.abc import Iterator
from functools import partial

import pytest
from table_committee import Bench, MakeBench, make_table_bench


def make_closing(make_bench: MakeBench) -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make(*args: object, **kwargs: object) -> Bench:
        benches.append(make_bench(*args, **kwargs))  # type: ignore[arg-type]
        return benches[-1]

    yield make
    for bench in benches:
        bench.engine.close()


@pytest.fixture
def make_bench() -> Iterator[MakeBench]:
    """Make engines on the host's memory, with a thread a worker."""
    yield from make_closing(make_table_bench)


@pytest.fixture(params=["committee", "torch-cpu"])
def make_any_bench(request: pytest.FixtureRequest) -> Iterator[MakeBench]:
    """Make engines of either kind; members may raise, wait and move a test's clock."""
    if request.param == "committee":
        yield from make_closing(make_table_bench)
    else:
        yield from make_torch("cpu")


@pytest.fixture(params=["committee", "torch-cpu", pytest.param("torch-cuda", marks=pytest.mark.gpu)])
def make_pure_bench(request: pytest.FixtureRequest) -> Iterator[MakeBench]:
    """Make engines of any kind, on any device; members only compute."""
    if request.param == "committee":
        yield from make_closing(make_table_bench)
    else:
        yield from make_torch(request.param.removeprefix("torch-"))


def make_torch(device: str) -> Iterator[MakeBench]:
    from torch_committee import make_torch_bench

    yield from make_closing(partial(make_torch_bench, device))
