"""Ghost batch normalisation: by hand for two ghost batches, and plain where there is one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model_zoo.architectures.ghost_norm import GhostBatchNorm2d, make_norm


def test_two_ghost_batches_by_hand() -> None:
    norm = GhostBatchNorm2d(1, 2, eps=1e-30, momentum=0.5)
    with torch.no_grad():
        norm.weight.fill_(3)
        norm.bias.fill_(1)
    # Rows 0 and 2 are one ghost batch, 1 and 3 the other: means 2 and 50, variances 1 and 1600 (unbiased 2 and 3200).
    output_B = norm(torch.tensor([1.0, 10.0, 3.0, 90.0]).view(4, 1, 1, 1)).view(4)
    assert output_B.tolist() == pytest.approx([1 - 3, 1 - 3, 1 + 3, 1 + 3])
    assert norm.running_mean.item() == pytest.approx(0.5 * 0 + 0.5 * 26)
    assert norm.running_var.item() == pytest.approx(0.5 * 1 + 0.5 * 1601)
    assert norm.num_batches_tracked.item() == 1


def test_rows_left_over_join_the_last_ghost_batch() -> None:
    norm = GhostBatchNorm2d(1, 2, eps=1e-30, momentum=1.0)
    # Five rows: [0, 2] are a ghost batch of mean 1; [4, 5, 9] another of mean 6.
    output_B = norm(torch.tensor([0.0, 2.0, 4.0, 5.0, 9.0]).view(5, 1, 1, 1)).view(5)
    deviation = (14 / 3) ** 0.5
    assert output_B.tolist() == pytest.approx([-1, 1, -2 / deviation, -1 / deviation, 3 / deviation])
    assert norm.running_mean.item() == pytest.approx((1 + 6) / 2)
    assert norm.running_var.item() == pytest.approx((2 + 7) / 2)


def _pair(ghost_batch_size: int) -> tuple[GhostBatchNorm2d, nn.BatchNorm2d]:
    ghost, plain = GhostBatchNorm2d(3, ghost_batch_size), nn.BatchNorm2d(3)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        plain.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    ghost.load_state_dict(plain.state_dict())
    return ghost, plain


@pytest.mark.parametrize("ghost_batch_size", [8, 5, 100])
def test_one_ghost_batch_is_batch_normalisation(ghost_batch_size: int) -> None:
    ghost, plain = _pair(ghost_batch_size)
    maps_BCHW = torch.randn(8, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    inputs = [maps_BCHW.clone().requires_grad_() for _ in range(2)]
    outputs = [norm(maps) for norm, maps in zip((ghost, plain), inputs, strict=True)]
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(outputs[0], outputs[1])
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(ghost.state_dict()[name], tensor), name


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 23), ghost_batch_size=st.integers(2, 8), is_channels_last=st.booleans())
def test_ghost_batches_are_batch_normalised_apart(rows: int, ghost_batch_size: int, is_channels_last: bool) -> None:
    ghost, plain = _pair(ghost_batch_size)
    maps_BCHW = torch.randn(rows, 3, 2, 2, generator=torch.Generator().manual_seed(rows))
    memory_format = torch.channels_last if is_channels_last else torch.contiguous_format
    output_BCHW = ghost(maps_BCHW.contiguous(memory_format=memory_format))
    assert output_BCHW.is_contiguous(memory_format=memory_format)
    ghosts = max(1, rows // ghost_batch_size)
    rest = rows % ghost_batch_size if ghosts > 1 else 0
    if rest == 0:
        parts = [list(range(first, rows, ghosts)) for first in range(ghosts)]
    else:
        split = rows - rest - ghost_batch_size
        parts = [list(range(first, split, ghosts - 1)) for first in range(ghosts - 1)] + [list(range(split, rows))]
    for part in parts:
        torch.testing.assert_close(output_BCHW[part], plain(maps_BCHW[part]), rtol=1e-4, atol=1e-5)


def test_evaluation_is_batch_normalisation_row_by_row() -> None:
    ghost, plain = _pair(2)
    with torch.no_grad():
        for norm in (ghost, plain):
            norm.get_buffer("running_mean").copy_(torch.tensor([1.0, 2.0, 3.0]))
            norm.get_buffer("running_var").copy_(torch.tensor([1.0, 4.0, 9.0]))
    maps_BCHW = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    before = {name: tensor.clone() for name, tensor in ghost.state_dict().items()}
    assert torch.equal(ghost.eval()(maps_BCHW), plain.eval()(maps_BCHW))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ghost.state_dict().items())


def test_half_precision_maps_keep_their_type_and_float_statistics() -> None:
    norm = GhostBatchNorm2d(2, 4)
    output = norm(torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(2)).bfloat16())
    assert output.dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32


def test_what_has_no_variance_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"maps: got \[4, 1, 1, 1\] in 4 ghost batches; each must have at least 2 values"
    ):
        GhostBatchNorm2d(1, 1)(torch.zeros(4, 1, 1, 1))
    with pytest.raises(ValueError, match="ghost_batch_size: got 0; must be at least 1"):
        GhostBatchNorm2d(1, 0)


def test_norms_with_frozen_scales_train_their_offsets_alone() -> None:
    norm = make_norm(4, ghost_batch_size=2, has_scale=False)
    assert isinstance(norm, GhostBatchNorm2d)
    assert [name for name, item in norm.named_parameters() if item.requires_grad] == ["bias"]
    assert norm.weight.tolist() == [1, 1, 1, 1]
    assert type(make_norm(4)) is nn.BatchNorm2d
