"""Numbers as the report writes them, with their units."""

from collections.abc import Sequence

UNKNOWN = "-"


def percent(share: float, digits: int = 1) -> str:
    """Write a share, such as ``93.5 %``."""
    return f"{100 * share:.{digits}f} %"


def percent_interval(share: float, interval: Sequence[float]) -> str:
    """Write a share with its interval, such as ``93.50 % [90.6, 95.5]``."""
    low, high = interval
    return f"{percent(share, 2)} [{100 * low:.1f}, {100 * high:.1f}]"


def duration(seconds: float) -> str:
    """Write a duration, such as ``36 ms``, ``0.36 s``, ``12.5 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def size_in_bytes(count: int) -> str:
    """Write a number of bytes, such as ``886 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1023.5:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def energy(joules: float | None) -> str:
    """Write an energy in joules or kilojoules, and in watt hours."""
    if joules is None:
        return UNKNOWN
    shown = f"{joules:.3g} J" if joules < 999.5 else f"{joules / 1000:.3g} kJ"
    return f"{shown} ({joules / 3600:.3g} Wh)"


def carbon(kilograms: float | None) -> str:
    """Write a mass of CO2 equivalents in milligrams, grams or kilograms."""
    if kilograms is None:
        return UNKNOWN
    grams = 1000 * kilograms
    if grams < 0.9995:
        return f"{1000 * grams:.3g} mg"
    return f"{grams:.3g} g" if grams < 999.5 else f"{kilograms:.3g} kg"
