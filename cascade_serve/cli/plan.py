"""The commands ``plan`` and ``inspect``: from a zoo to a bundle, and what is in a bundle."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cascade_serve.bundle import Bundle, check_target, load_bundle, plan_to_json, write_bundle
from cascade_serve.cli.plan_output import print_bundle, print_next, print_note, print_policies, print_precisions
from cascade_serve.core.combine import Combine
from cascade_serve.core.confidence import Confidence
from cascade_serve.core.cost import Cost, parse_flops
from cascade_serve.core.plan import Plan
from cascade_serve.errors import ConfigError, MissingExtraError
from cascade_serve.planner.committee import Rules
from cascade_serve.planner.demands import DEFAULT_MAX_REGRET, Demands
from cascade_serve.planner.search import MAX_STAGES, Limits
from model_zoo.card import Card
from model_zoo.store import CARD_FILE, ZooMember

if TYPE_CHECKING:
    from cascade_serve.planner.planning import Study
    from cascade_serve.planner.zoo_rows import ZooRows

_PLANNING = "Planning"
_BY_HAND = "Planning by hand"
_LIMITS = "Limits"
_SEARCH_OPTIONS = (
    "members", "cost", "cost_batch_size", "max_members", "max_flops", "mean_flops", "min_accuracy", "max_regret",
    "level", "seed", "report",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add ``plan`` and ``inspect``."""
    app.command("plan")(plan)
    app.command("inspect")(inspect)


def plan(
    ctx: typer.Context,
    task: Annotated[Path, typer.Argument(metavar="ZOO/TASK", help="Task of a zoo, with its members.")],
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="REPOSITORY/CASCADE/VERSION", help="Bundle to write; VERSION is 1, 2, ..., not taken yet."
        ),
    ],
    members: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Members to choose from. \\[default: all]")
    ] = None,
    cost: Annotated[
        Cost,
        typer.Option(
            help="What is kept small: FLOPs, or seconds by the members' profiles (see 'zoo profile'); caps stay FLOPs.",
            rich_help_panel=_PLANNING,
        ),
    ] = Cost.FLOPS,
    cost_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="With --cost seconds: the batch size of the profiles to go by. \\[default: each member's best]",
            rich_help_panel=_PLANNING,
        ),
    ] = None,
    max_members: Annotated[
        int, typer.Option(min=1, max=MAX_STAGES, help="Most stages of a policy.", rich_help_panel=_LIMITS)
    ] = MAX_STAGES,
    combine: Annotated[
        Combine | None,
        typer.Option(
            help="How members speak together. \\[default: what reaches the promise most cheaply; by hand: mean_probs]"
        ),
    ] = None,
    confidence: Annotated[
        Confidence | None,
        typer.Option(
            help="How sure a prediction is, from 0 to 1. \\[default: what reaches the promise most cheaply; by hand:"
            " max_prob]"
        ),
    ] = None,
    max_flops: Annotated[
        int | None,
        typer.Option(
            parser=parse_flops,
            metavar="FLOPS",
            help="Worst case per image, such as 250M; no policy may exceed it on any image. \\[default: no cap]",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    mean_flops: Annotated[
        int | None,
        typer.Option(
            parser=parse_flops,
            metavar="FLOPS",
            help="Mean per image over the calibration images, such as 100M. \\[default: no cap]",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Promise at least this accuracy, from 0 to 1, such as 0.93, in place of --max-regret."
            " \\[default: promise a regret]",
            rich_help_panel=_PLANNING,
        ),
    ] = None,
    max_regret: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Promise to lose at most this accuracy, from 0 to 1, against the most accurate single member."
            f" \\[default: {DEFAULT_MAX_REGRET}]",
            rich_help_panel=_PLANNING,
        ),
    ] = None,
    level: Annotated[
        float,
        typer.Option(metavar="SHARE", help="How sure the promise must be, from 0 to 1.", rich_help_panel=_PLANNING),
    ] = 0.95,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the split of the calibration rows into halves.", rich_help_panel=_PLANNING)
    ] = 0,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write pareto.png, reliability.png, exits.png and report.json there."),
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:THRESHOLD,...,NAME",
            help="Make this the only policy, such as resnet20:0.9,resnet56, in place of searching.",
            rich_help_panel=_BY_HAND,
        ),
    ] = None,
    no_calibration: Annotated[
        bool,
        typer.Option(
            "--no-calibration",
            help="With --stages: read no calibration; temperatures are 1 and nothing is measured.",
            rich_help_panel=_BY_HAND,
        ),
    ] = False,
) -> None:
    """Plan a cascade from a zoo's members, and write it as a bundle that can be served."""
    check_target(out)  # before the work, and not only after it
    if stages is not None:
        _refuse_search_options(ctx)
        bundle = _plan_by_hand(task, out, stages, combine, confidence, with_calibration=not no_calibration)
    else:
        if no_calibration:
            raise ConfigError("--no-calibration: a search needs calibration; give it with --stages alone")
        if min_accuracy is not None and max_regret is not None:
            raise ConfigError("--min-accuracy, --max-regret: got both; must be one of them")
        demands = Demands(
            limits=Limits(max_members=max_members, max_flops=max_flops, mean_flops=mean_flops),
            cost=cost,
            cost_batch_size=cost_batch_size,
            combine=combine,
            confidence=confidence,
            max_regret=DEFAULT_MAX_REGRET if max_regret is None else max_regret,
            min_accuracy=min_accuracy,
            level=level,
            seed=seed,
        )
        bundle = _plan_by_search(task, out, _split_names(members), demands, report)
    print_next(bundle, report)


def inspect(
    path: Annotated[Path, typer.Argument(metavar="REPOSITORY/CASCADE/VERSION", help="Bundle to read and verify.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print plan and cards as JSON.")] = False,
) -> None:
    """Verify a bundle and print all that is in it: members, policies, promises, calibration."""
    bundle = load_bundle(path)
    cards = {member.name: _read_card(bundle, member.name) for member in bundle.plan.members}
    if as_json:
        typer.echo(json.dumps(_bundle_json(bundle, cards), indent=2))
        return
    print_bundle(bundle, cards)


def _refuse_search_options(ctx: typer.Context) -> None:
    """Refuse what would be ignored beside --stages; a default that nobody typed is no demand."""
    for name in _SEARCH_OPTIONS:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(
                f"--{name.replace('_', '-')}: got {ctx.params[name]} with --stages; must be left out, nothing is"
                " searched"
            )


def _split_names(members: str | None) -> list[str] | None:
    if members is None:
        return None
    names = [name.strip() for name in members.split(",")]
    if not all(names):
        raise ConfigError(f"--members: got {members!r}; must be names with commas between them")
    return names


def _split_stages(stages: str) -> tuple[list[str], list[float]]:
    """Read ``resnet20:0.9,resnet56``: names, and thresholds of all but the last."""
    parts = [[text.strip() for text in part.partition(":")] for part in stages.split(",")]
    *gated, last = parts
    if last[1] or not all(name for name, _, _ in parts):
        raise ConfigError(
            f"--stages: got {stages!r}; must be NAME:THRESHOLD,...,NAME: the last stage always answers, so it has"
            " no threshold"
        )
    thresholds = []
    for name, _, text in gated:
        try:
            thresholds.append(float(text))
        except ValueError:
            raise ConfigError(f"--stages: got {text!r} as the threshold of {name!r}; must be between 0 and 1") from None
    return [name for name, _, _ in parts], thresholds


def _plan_by_search(
    task_path: Path, out: Path, names: list[str] | None, demands: Demands, report: Path | None
) -> Bundle:
    with _planning_extra():
        from cascade_serve.planner.planning import make_study, num_steps
        from cascade_serve.planner.policies import draw_plan
        from cascade_serve.planner.zoo_costs import read_seconds
        from cascade_serve.planner.zoo_rows import read_zoo_members, read_zoo_rows, read_zoo_task
    task, members = read_zoo_task(task_path), read_zoo_members(task_path, names)
    seconds = read_seconds(members, demands)
    rows = read_zoo_rows(members)
    flops = [member.card.cost.flops for member in members]
    with _progress("planning", num_steps(len(members), demands)) as advance:
        study = make_study(rows, [member.name for member in members], flops, demands, advance, seconds=seconds)
    drawn = draw_plan(study, task, members, rows)
    if report is not None:
        _write_report(report, study, drawn)
    return _write(out, drawn, members, rows)


def _write_report(folder: Path, study: "Study", drawn: Plan) -> None:
    with _planning_extra():
        from cascade_serve.planner.report import write_report
    write_report(folder, study, drawn)


def _plan_by_hand(
    task_path: Path,
    out: Path,
    stages: str,
    combine: Combine | None,
    confidence: Confidence | None,
    *,
    with_calibration: bool,
) -> Bundle:
    with _planning_extra():
        from cascade_serve.planner.policies import draw_manual_plan
        from cascade_serve.planner.zoo_rows import read_zoo_members, read_zoo_rows, read_zoo_task
    names, thresholds = _split_stages(stages)
    members = read_zoo_members(task_path, names)
    rows = read_zoo_rows(members) if with_calibration else None
    rules = Rules(combine=combine or Combine.MEAN_PROBS, confidence=confidence or Confidence.MAX_PROB)
    drawn = draw_manual_plan(
        task=read_zoo_task(task_path), members=members, thresholds=thresholds, rules=rules, rows=rows
    )
    return _write(out, drawn, members, rows)


def _write(out: Path, drawn: Plan, members: tuple[ZooMember, ...], rows: "ZooRows | None") -> Bundle:
    bundle = write_bundle(out, drawn, {member.name: member.path for member in members})
    if rows is not None and rows.num_repeated:
        print_note(f"{rows.num_repeated:,} calibration images stood there more than once and were counted once")
    print_policies(bundle.plan)
    print_precisions([member.card.precision for member in members], bundle.plan)
    return bundle


@contextmanager
def _planning_extra() -> Iterator[None]:
    """Turn a missing optional package into the words that say how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "plan") from error


@contextmanager
def _progress(what: str, steps: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal's standard error, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=steps)
        yield lambda: bar.advance(task)


def _read_card(bundle: Bundle, member: str) -> Card | None:
    file = bundle.member_path(member) / CARD_FILE
    return Card.from_json(file.read_bytes(), str(file)) if file.is_file() else None


def _bundle_json(bundle: Bundle, cards: dict[str, Card | None]) -> dict[str, object]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "path": str(bundle.path),
        "plan": json.loads(plan_to_json(bundle.plan)),
        "cards": {name: None if card is None else json.loads(card.to_json()) for name, card in cards.items()},
    }
