"""FLOPs and seconds as text, and caps at and around the sums of stages."""

import math

import pytest

from cascade_serve.core.cost import (
    cumulative_flops,
    format_flops,
    format_seconds,
    num_stages_within,
    parse_flops,
    seconds_at,
)


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("250M", 250_000_000),
        ("250m", 250_000_000),
        ("1.5G", 1_500_000_000),
        ("0.5K", 500),
        (" 81100000 ", 81_100_000),
        ("2 T", 2 * 10**12),
        ("1", 1),
        ("0.001K", 1),
        ("1.9", 1),
        ("0.1234567M", 123_456),
        # A float would give 289,999,999.
        ("0.29G", 290_000_000),
        ("007", 7),
        ("9223372036854775807", 2**63 - 1),
        ("9223372.036854775807T", 2**63 - 1),
    ],
)
def test_parse(text: str, flops: int) -> None:
    assert parse_flops(text) == flops


@pytest.mark.parametrize(
    "text",
    # The last two are an Arabic digit and the Kelvin sign, which a careless pattern takes for a digit and a K.
    [
        "",
        " ",
        "M",
        "-1",
        "+1",
        "1e6",
        "1.M",
        ".5M",
        "1,000",
        "1_000",
        "1.2.3M",
        "5MM",
        "5P",
        "nan",
        "inf",
        "0x10",
        "5 M FLOPs",
        "1\n2",
        "\u0663M",
        "5\u212a",
        "1" * 5000,
        "0." + "1" * 5000,
    ],
)
def test_parse_refuses_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number of FLOPs such as 250M, 1\.5G or 81100000$"):
        parse_flops(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0.9", "0.0009K", "9223372036854775808", "9223373T"])
def test_parse_refuses_what_is_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="must lie between 1 and 9223372036854775807 FLOPs"):
        parse_flops(text)


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (81_100_000, "81.1M"),
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (1234, "1.23K"),
        (999_499, "999K"),
        (999_500, "1M"),
        (999_999, "1M"),
        (999.7, "1K"),
        (1_500_000_000, "1.5G"),
        (2.5e12, "2.5T"),
        (float("nan"), "-"),
    ],
)
def test_format(flops: float, text: str) -> None:
    assert format_flops(flops) == text


def test_format_can_be_read_back() -> None:
    for flops in (1, 17, 999, 1000, 123_000, 999_999, 10**9, 2**49):
        assert parse_flops(format_flops(flops)) == pytest.approx(flops, rel=0.005)


def test_cumulative() -> None:
    assert cumulative_flops([10, 100, 1000]) == (10, 110, 1110)
    assert cumulative_flops([]) == ()


@pytest.mark.parametrize(
    ("cap", "stages"),
    [(None, 3), (1, 0), (9, 0), (10, 1), (11, 1), (109, 1), (110, 2), (111, 2), (1109, 2), (1110, 3), (2**63 - 1, 3)],
)
def test_stages_within_a_cap(cap: int | None, stages: int) -> None:
    assert num_stages_within([10, 100, 1000], cap) == stages


def test_a_cheap_stage_after_a_dear_one_is_not_reached() -> None:
    assert num_stages_within([10, 1000, 1], 500) == 1


def test_no_stages() -> None:
    assert num_stages_within([], 5) == 0
    assert num_stages_within([], None) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.345, "12.3s"),
        (1234.5, "1230s"),
        (1.0, "1s"),
        (0.99949, "999ms"),
        (0.9996, "1s"),
        (0.00114, "1.14ms"),
        (0.0008771, "877µs"),
        (0.0009996, "1ms"),
        (1.5e-6, "1.5µs"),
        (2e-9, "0.002µs"),
        (math.nan, "-"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_profile_is_read_at_a_size_or_at_its_best() -> None:
    profile = {1: 0.004, 8: 0.001, 32: 0.002}
    assert seconds_at(profile, 1) == 0.004
    assert seconds_at(profile, None) == 0.001
    assert math.isnan(seconds_at(profile, 2))
    assert math.isnan(seconds_at({}, None))
