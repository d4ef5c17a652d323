"""What ``plan`` and ``inspect`` print; the tables fit into 80 columns."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cascade_serve.bundle import Bundle
from cascade_serve.cli.console import table_console
from cascade_serve.cli.descent import descent_facts
from cascade_serve.core.cost import format_flops, format_seconds, seconds_at
from cascade_serve.core.plan import Plan
from cascade_serve.planner import words
from model_zoo.card import Card

_MAX_CLASSES = 10


def print_policies(plan: Plan) -> None:
    """Print how a plan was made, its policies and what they promise."""
    console = table_console()
    console.print(f"combine {plan.combine.value}, confidence {plan.confidence.value}; {words.calibration_note(plan)}")
    for table in words.policy_tables(plan):
        console.print(table)
    console.print(words.legend(plan))
    for line in words.promises(plan):
        console.print(line)


def print_bundle(bundle: Bundle, cards: Mapping[str, Card | None]) -> None:
    """Print all that is in a verified bundle; ``cards`` by member, None where there is none."""
    console = table_console()
    console.print(f"{bundle.name} version {bundle.version}: {bundle.path} (every file is what the plan says)")
    console.print(_task_line(bundle.plan))
    console.print(_member_table(bundle.plan, cards))
    if any(member.seconds for member in bundle.plan.members):
        console.print(_time_line(bundle.plan, cards))
    descent = descent_table(cards)
    if descent.row_count:
        console.print(descent)
    print_policies(bundle.plan)
    print_precisions([member.precision for member in bundle.plan.members], bundle.plan)


def print_precisions(precisions: Iterable[str], plan: Plan) -> None:
    """Warn where the members that a plan was chosen from can't be compared in FLOPs."""
    note = words.precision_note(precisions, plan.cost)
    if note is not None:
        print_note(f"note: {note}")


def print_next(bundle: Bundle, report: Path | None) -> None:
    """Print what was written, and what to type next."""
    if report is not None:
        print_note(f"report: {report / 'report.json'} and the pictures beside it")
    print_note(f"bundle: {bundle.path}")
    print_note(f"next:   cascade-serve serve {quote(str(bundle.path.parent.parent))}")


def print_note(text: str) -> None:
    """Print a line as it is, however long, so that it can be copied."""
    Console(soft_wrap=True, highlight=False).print(text, markup=False)


def descent_table(cards: Mapping[str, Card | None]) -> Table:
    """Tell of each member how its weights came about, as far as its card knows."""
    table = Table(title="descent", title_justify="left", show_header=False, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("member", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for member, card in cards.items():
        facts = [] if card is None else list(descent_facts(card))
        for row, (label, text) in enumerate(facts):
            table.add_row(member if row == 0 else "", label, text, end_section=row == len(facts) - 1)
    return table


def _task_line(plan: Plan) -> str:
    task = plan.task
    classes = task.classes if len(task.classes) <= _MAX_CLASSES else (*task.classes[:_MAX_CLASSES], "...")
    return f"images {task.height} x {task.width} x {task.channels}, {len(task.classes)} classes: {', '.join(classes)}"


def _time_line(plan: Plan, cards: Mapping[str, Card | None]) -> str:
    """Say what the members' times are, and where they were measured as far as there are cards."""
    profiled = [card.cost.profiled_on for card in cards.values() if card is not None and card.cost.seconds]
    places = "; ".join(sorted({place or "an unknown machine" for place in profiled}))
    return f"time: per image, {words.profiled_at(plan)}" + (f", measured on {places}" if places else "")


def _member_table(plan: Plan, cards: Mapping[str, Card | None]) -> Table:
    table = Table(title="members", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("member", no_wrap=True)
    has_times = any(member.seconds for member in plan.members)
    for column in ("FLOPs", *(("time",) if has_times else ()), "params", "type", "temperature", "accuracy %"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("architecture: weights", overflow="fold")
    for member in plan.members:
        card = cards[member.name]
        accuracy = None if card is None else card.accuracy
        table.add_row(
            member.name,
            format_flops(member.flops),
            *((format_seconds(seconds_at(member.seconds or {}, plan.cost_batch_size)),) if has_times else ()),
            "-" if card is None else format_flops(card.cost.params),
            member.precision,
            f"{member.temperature:.3g}",
            "-" if accuracy is None else f"{100 * accuracy.top1:.2f}",
            "-" if card is None else f"{card.architecture}: {card.provenance.weights}",
        )
    return table
