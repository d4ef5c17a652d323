import pytest

from training.report.quantities import carbon, duration, energy, percent, percent_interval, size_in_bytes


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0 ms"),
        (0.0123, "12 ms"),
        (0.0996, "0.10 s"),
        (1.234, "1.23 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7620.0, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (929_325_056, "886 MiB"), (3 * 2**29, "1.5 GiB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert size_in_bytes(count) == shown


def test_shares() -> None:
    assert percent(0.3025) == "30.2 %"
    assert percent_interval(0.955, (0.93, 0.9713)) == "95.50 % [93.0, 97.1]"


@pytest.mark.parametrize(("joules", "shown"), [(None, "-"), (49.6, "49.6 J (0.0138 Wh)"), (7200.0, "7.2 kJ (2 Wh)")])
def test_energies(joules: float | None, shown: str) -> None:
    assert energy(joules) == shown


@pytest.mark.parametrize(
    ("kilograms", "shown"), [(None, "-"), (7.7e-7, "0.77 mg"), (0.0123, "12.3 g"), (4.5, "4.5 kg")]
)
def test_masses_of_co2(kilograms: float | None, shown: str) -> None:
    assert carbon(kilograms) == shown
