"""A member's descent in words: on which data, chosen by which proxy, augmented how, at what cost it was trained."""

from collections.abc import Iterator

from pydantic import JsonValue

from model_zoo.card import Card, TrainingCard

_MAX_ITEMS = 8
_MAX_TEXT = 200


def descent_facts(card: Card) -> Iterator[tuple[str, str]]:
    """Give what is known of how a member's weights came about, as pairs of label and text.

    Args:
        card: the member's; nothing is given of what it does not tell.
    """
    provenance = card.provenance
    selection = provenance.selection
    if isinstance(selection, dict):
        if selection.get("proxy") is not None:
            yield "proxy", describe(selection["proxy"])
        selection = {key: value for key, value in selection.items() if key != "proxy"}
    for label, value in (
        ("subset", selection),
        ("policy schedule", provenance.policy_schedule),
        ("data schedule", provenance.data_schedule),
    ):
        if value is not None:
            yield label, describe(value)
    if card.training is not None:
        yield "training", _training(card.training)
    if provenance.seeds:
        yield "seeds", ", ".join(map(str, provenance.seeds))
    if provenance.train_sha256 is not None:
        yield "training data", provenance.train_sha256


def describe(value: JsonValue) -> str:
    """Put a JSON value on one line: entries with commas between them, inner ones in brackets, long ones cut."""
    text = ", ".join(_entries(value)) if isinstance(value, dict) else _inner(value)
    return text or "-"


def _entries(value: dict[str, JsonValue]) -> Iterator[str]:
    for key, inner in value.items():
        yield f"{key.replace('_', ' ')} {_inner(inner)}"


def _inner(value: JsonValue) -> str:
    match value:
        case dict():
            return f"({', '.join(_entries(value))})"
        case list():
            more = f", ... {len(value) - _MAX_ITEMS} more" if len(value) > _MAX_ITEMS else ""
            return f"[{', '.join(map(_inner, value[:_MAX_ITEMS]))}{more}]"
        case _:
            return _scalar(value)


def _scalar(value: str | float | None) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case _:
            return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}..."


def _training(training: TrainingCard) -> str:
    facts = (
        ("{:,} evaluations", training.evaluations),
        ("{:.1f} s of process time", training.seconds),
        ("{:.1f} s in all", training.wall_seconds),
        ("{:,.0f} J", training.energy_joules),
        ("{:.3g} kg CO2", training.co2_kg),
        ("on {}", training.device),
    )
    return ", ".join(text.format(value) for text, value in facts if value is not None) or "-"
