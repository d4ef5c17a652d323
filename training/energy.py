"""What training costs in energy and CO2, where codecarbon is installed; evaluations and process time else.

Codecarbon is optional (the extra ``energy``) and loaded only by a meter that is started.
"""

import logging
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from training.errors import EnergyError

if TYPE_CHECKING:
    from codecarbon import OfflineEmissionsTracker

_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """Energy of some work.

    Attributes:
        joules: of processor, memory and GPUs of the whole machine; None is not measured.
        co2_kg: that this makes, as kilograms of CO2 equivalents; None is not measured.
        tool: what measured it, with its version; None is nothing.
    """

    joules: float | None = None
    co2_kg: float | None = None
    tool: str | None = None

    def __add__(self, other: "Energy") -> "Energy":
        """Sum two measurements; what neither knows stays unknown."""
        return Energy(
            joules=_sum(self.joules, other.joules),
            co2_kg=_sum(self.co2_kg, other.co2_kg),
            tool=other.tool or self.tool,
        )


class EnergyMeter(Protocol):
    """Measures from start to stop."""

    def start(self) -> None:
        """Begin."""
        ...

    def read(self) -> Energy:
        """Give what was used since the start."""
        ...

    def stop(self) -> None:
        """End; the last reading stays."""
        ...


class NoMeter:
    """Measures nothing."""

    def start(self) -> None:
        """Do nothing."""

    def read(self) -> Energy:
        """Give an empty measurement."""
        return Energy()

    def stop(self) -> None:
        """Do nothing."""


def check_country(country: str) -> None:
    """Refuse what is no ISO 3166-1 alpha-3 code.

    Raises:
        ValueError: it isn't three capitals.
    """
    if len(country) != 3 or not country.isascii() or not country.isalpha() or not country.isupper():
        raise ValueError(f"country: got {country!r}; must be three capitals (ISO 3166-1 alpha-3), such as 'FRA'")


class CodecarbonMeter:
    """Codecarbon's offline tracker: no network, no files, no log.

    Args:
        country: ISO 3166-1 alpha-3 code, such as ``FRA``, whose mix of electricity gives the CO2.
        sample_every_s: seconds between samples of the power.
    """

    def __init__(self, country: str, *, sample_every_s: float = 5.0) -> None:
        check_country(country)
        if not 0 < sample_every_s < float("inf"):
            raise ValueError(f"sample_every_s: got {sample_every_s}; must be above 0 and finite")
        self._country = country
        self._sample_every_s = sample_every_s
        self._tracker: OfflineEmissionsTracker | None = None
        self._listener = _Listener()
        self._tool = "codecarbon"

    def start(self) -> None:
        """Begin; finding out about the machine takes codecarbon some seconds.

        Raises:
            EnergyError: codecarbon is absent, does not know the country, or can't measure here.
        """
        try:
            import codecarbon
        except ImportError as error:
            raise EnergyError(
                "codecarbon is not installed; install cascade-serve[energy], or train without an energy meter"
            ) from error
        self._tool = f"codecarbon {version('codecarbon')}"
        # It would speak of itself before its own log_level is heard.
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        self._tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code=self._country,
            measure_power_secs=self._sample_every_s,
            output_methods=[],
            output_handlers=[self._listener],
            allow_multiple_runs=True,
            log_level="critical",
        )
        self._tracker.start()
        self._tracker.flush()
        try:
            self._check_heard()
        except EnergyError:
            self.stop()
            raise

    def _check_heard(self) -> None:
        # Codecarbon swallows its own exceptions: that nothing was heard is how they show.
        last = self._listener.last
        if last is None:
            raise EnergyError(f"country: got {self._country!r}; codecarbon gave no measurement for it on this machine")
        # It would take the world's average for a country that it has no name for.
        if not last.country_name:
            raise EnergyError(f"country: got {self._country!r}; must be one whose electricity codecarbon knows")

    def read(self) -> Energy:
        """Give what was used since the start."""
        if self._tracker is not None:
            self._tracker.flush()
        last = self._listener.last
        if last is None:
            return Energy(tool=self._tool)
        return Energy(joules=last.energy_consumed * _JOULES_PER_KWH, co2_kg=last.emissions, tool=self._tool)

    def stop(self) -> None:
        """End the sampling; it can't be started again."""
        if self._tracker is not None:
            self._tracker.stop()
            self._tracker = None


class _Listener:
    """Hears codecarbon's totals (its ``BaseOutput``, by duck type, so that it needn't be imported)."""

    def __init__(self) -> None:
        self.last: Any = None

    def out(self, total: Any, delta: Any) -> None:
        del delta
        self.last = total

    def live_out(self, total: Any, delta: Any) -> None:
        """Samples in between are not needed."""

    def task_out(self, data: Any, experiment_name: str) -> None:
        """There are no tasks."""

    def exit(self) -> None:
        """Nothing is open."""


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None and second is None else (first or 0.0) + (second or 0.0)
