"""Batches are of one size but for the last two, follow the plan, and are augmented some thousand images at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training import batches
from training.batches import BatchSource, cut_batches
from training.data.device import hold_on_device
from training.data.images import LabelledImages
from training.data_schedule.protocol import EpochPlan
from training.inputs import Normalisation, normalise
from training.tally import Stopwatch


@pytest.mark.parametrize(
    ("rows", "batch_size", "expected"),
    [
        (10, 5, [5, 5]),
        (11, 5, [5, 3, 3]),
        (101, 50, [50, 26, 25]),
        (149, 50, [50, 50, 49]),
        (6, 5, [3, 3]),
        (3, 10_000, [3]),
        (4, 1, [1, 1, 1, 1]),
    ],
)
def test_sizes_by_hand(rows: int, batch_size: int, expected: list[int]) -> None:
    assert [stop - start for start, stop in cut_batches(rows, batch_size)] == expected


@given(st.integers(1, 5000), st.integers(1, 600))
def test_all_rows_are_used_once_in_the_fewest_batches(rows: int, batch_size: int) -> None:
    cuts = cut_batches(rows, batch_size)
    assert [cuts[0][0], *(stop for _, stop in cuts)] == [*(start for start, _ in cuts), rows]
    sizes = [stop - start for start, stop in cuts]
    assert len(sizes) == -(-rows // batch_size)
    assert set(sizes[:-2]) <= {batch_size}
    assert max(sizes) <= batch_size
    assert 2 * min(sizes) >= min(rows, batch_size)


def make_data(num_images: int) -> LabelledImages:
    generator = np.random.default_rng(0)
    return LabelledImages(
        images_BHWC=generator.integers(0, 256, (num_images, 4, 5, 3), dtype=np.uint8),
        labels_B=generator.integers(0, 10, num_images),
        ids_B=np.arange(num_images, dtype=np.int64) + 1000,
        classes=tuple("abcdefghij"),
    )


def make_source(data: LabelledImages, batch_size: int, *, channels_last: bool = False) -> BatchSource:
    normalisation = Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    return BatchSource(hold_on_device(data, "cpu"), normalisation, batch_size=batch_size, channels_last=channels_last)


def leave(images_BCHW: Tensor, ids_B: Tensor) -> Tensor:
    del ids_B
    return images_BCHW


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_hold_what_the_plan_says(channels_last: bool) -> None:
    data = make_data(100)
    rows_E = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:77]
    plan = EpochPlan(rows_E=rows_E, weights_E=torch.arange(77.0))
    source = make_source(data, 10, channels_last=channels_last)
    made = list(source.batches(plan, leave, Stopwatch()))
    assert torch.equal(torch.cat([batch.rows_B for batch in made]), rows_E)
    assert torch.equal(torch.cat([batch.ids_B for batch in made]), rows_E + 1000)
    assert torch.equal(torch.cat([batch.labels_B for batch in made]), torch.from_numpy(data.labels_B)[rows_E])
    weights = [batch.weights_B for batch in made]
    assert torch.equal(torch.cat([item for item in weights if item is not None]), torch.arange(77.0))
    images_BCHW = torch.from_numpy(data.images_BHWC).permute(0, 3, 1, 2)[rows_E]
    expected = normalise(images_BCHW, Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    assert torch.equal(torch.cat([batch.inputs_BCHW for batch in made]), expected)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(batch.inputs_BCHW.is_contiguous(memory_format=layout) for batch in made)


def test_without_weights_there_are_none() -> None:
    made = list(make_source(make_data(9), 4).batches(EpochPlan(rows_E=torch.arange(9)), leave, Stopwatch()))
    assert [batch.weights_B for batch in made] == [None] * 3


@pytest.mark.parametrize(
    ("rows", "largest_bytes", "expected"),
    # Batches of 8; 60 bytes an image.
    [
        (1000, 1 << 30, [80]),
        (20, 1 << 30, [16, 16, 16, 16, 16]),
        (1, 1 << 30, [8] * 10),
        (1000, 60 * 30, [24, 24, 24, 8]),
    ],
)
def test_images_are_augmented_in_chunks_of_whole_batches(
    rows: int, largest_bytes: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_CHUNK_ROWS", rows)
    monkeypatch.setattr(batches, "_CHUNK_BYTES", largest_bytes)
    sizes: list[int] = []

    def note(images_BCHW: Tensor, ids_B: Tensor) -> Tensor:
        assert images_BCHW.dtype == torch.uint8
        assert len(ids_B) == len(images_BCHW)
        sizes.append(len(images_BCHW))
        return 255 - images_BCHW

    plan = EpochPlan(rows_E=torch.arange(80))
    data = make_data(80)
    made = list(make_source(data, 8).batches(plan, note, Stopwatch()))
    assert sizes == expected
    plain = list(make_source(data, 8).batches(plan, leave, Stopwatch()))
    assert not torch.equal(made[0].inputs_BCHW, plain[0].inputs_BCHW)
    assert [len(batch) for batch in made] == [8] * 10


def test_the_watch_runs_while_images_are_augmented() -> None:
    watch, before = Stopwatch(), []

    def look(images_BCHW: Tensor, ids_B: Tensor) -> Tensor:
        del ids_B
        before.append(watch.seconds)
        return images_BCHW

    list(make_source(make_data(9), 4).batches(EpochPlan(rows_E=torch.arange(9)), look, watch))
    assert before == [0.0]
    assert watch.seconds > 0
