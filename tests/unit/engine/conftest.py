"""Engines that are closed after the test."""

from collections.abc import Iterator

import pytest
from table_committee import Bench, MakeBench, make_table_bench


@pytest.fixture
def make_bench() -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make(*args: object, **kwargs: object) -> Bench:
        benches.append(make_table_bench(*args, **kwargs))  # type: ignore[arg-type]
        return benches[-1]

    yield make
    for bench in benches:
        bench.engine.close()
