"""Energy is measured by codecarbon where it is there; what nothing measured stays unknown."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from training.energy import CodecarbonMeter, Energy, NoMeter
from training.errors import EnergyError


def test_measurements_are_summed_and_unknown_ones_stay_unknown() -> None:
    first, second = Energy(joules=1.0, co2_kg=0.25, tool="a"), Energy(joules=2.0, tool="b")
    assert first + second == Energy(joules=3.0, co2_kg=0.25, tool="b")
    assert first + Energy() == first
    assert Energy() + first == first
    assert Energy() + Energy() == Energy()


def test_no_meter_measures_nothing() -> None:
    meter = NoMeter()
    meter.start()
    assert meter.read() == Energy()
    meter.stop()


class FakeTracker:
    """Codecarbon's tracker, as far as it is used: 1 kWh a flush; never measured in XXX; for ZZZ it has no name."""

    def __init__(self, *, country_iso_code: str, output_handlers: list[Any], **options: object) -> None:
        assert options["output_methods"] == []
        assert options["log_level"] == "critical"
        self.country = country_iso_code
        self.handlers = output_handlers
        self.told: list[str] = []
        self.kwh = 0.0

    def start(self) -> None:
        self.told.append("start")

    def flush(self) -> None:
        if self.country == "XXX":
            return
        self.kwh += 1
        for handler in self.handlers:
            country = None if self.country == "ZZZ" else "France"
            handler.out(SimpleNamespace(energy_consumed=self.kwh, emissions=self.kwh / 10, country_name=country), None)

    def stop(self) -> None:
        self.told.append("stop")


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[FakeTracker]:
    made: list[FakeTracker] = []

    def make(**options: Any) -> FakeTracker:
        made.append(FakeTracker(**options))
        return made[-1]

    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr("training.energy.version", lambda _: "3.0")
    return made


def test_kilowatt_hours_become_joules(trackers: list[FakeTracker]) -> None:
    meter = CodecarbonMeter("FRA")
    meter.start()
    assert meter.read() == Energy(joules=2 * 3.6e6, co2_kg=0.2, tool="codecarbon 3.0")
    assert meter.read().joules == 3 * 3.6e6
    meter.stop()
    meter.stop()
    assert trackers[0].told == ["start", "stop"]
    assert meter.read().joules == 3 * 3.6e6


@pytest.mark.parametrize(
    ("country", "message"),
    [
        ("XXX", "codecarbon gave no measurement for it on this machine"),
        ("ZZZ", "must be one whose electricity codecarbon knows"),
    ],
)
def test_a_country_that_is_not_known_is_named(trackers: list[FakeTracker], country: str, message: str) -> None:
    with pytest.raises(EnergyError, match=f"^country: got '{country}'; {message}$"):
        CodecarbonMeter(country).start()
    assert trackers[0].told == ["start", "stop"]


@pytest.mark.parametrize("country", ["", "FR", "fra", "FRAN", "F1A", "ÄÖÜ"])
def test_other_codes_are_refused_at_once(country: str) -> None:
    with pytest.raises(ValueError, match=rf"^country: got '{country}'; must be three capitals"):
        CodecarbonMeter(country)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_sampling_takes_some_time(seconds: float) -> None:
    with pytest.raises(ValueError, match=rf"^sample_every_s: got {seconds}; must be above 0 and finite$"):
        CodecarbonMeter("FRA", sample_every_s=seconds)


def test_without_codecarbon_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(EnergyError, match=r"^codecarbon is not installed; install cascade-serve\[energy\], or train"):
        CodecarbonMeter("FRA").start()


@pytest.mark.slow
def test_codecarbon_itself(capfd: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    # It would measure, and take the world's average.
    with pytest.raises(EnergyError, match="got 'XXX'"):
        CodecarbonMeter("XXX").start()
    meter = CodecarbonMeter("FRA", sample_every_s=1)
    try:
        meter.start()
    except EnergyError as error:
        pytest.skip(str(error))
    first, second = meter.read(), meter.read()
    meter.stop()
    assert first.joules is not None
    assert second.joules is not None
    assert first.co2_kg is not None
    assert 0 < first.joules <= second.joules < 1e6
    # France: some tens of grams a kilowatt hour.
    assert 0.005 < first.co2_kg / (first.joules / 3.6e6) < 0.3
    assert first.tool is not None
    assert first.tool.startswith("codecarbon 3")
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
