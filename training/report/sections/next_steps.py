"""What to type next, by how far the run is."""

from pathlib import Path
from shlex import quote

from training.pipeline.policy_stage import SCHEDULE_FILE
from training.pipeline.policy_stage import STAGE as POLICY
from training.pipeline.selection_stage import STAGE as SELECTION
from training.pipeline.selection_stage import SUBSET_FILE
from training.report.contents import RunContents
from training.report.markup import Markup, element, join, paragraph
from training.report.section import Section


def next_section(contents: RunContents) -> Section:
    """Give the commands that go on from here."""
    words, commands = _next(contents)
    body = join([paragraph(words), _lines(commands)])
    return Section(anchor="next", title="What to type next", body=body)


def _next(contents: RunContents) -> tuple[str, list[str]]:
    run, folder = contents.run, quote(str(contents.path))
    if contents.open_stages:
        words = (
            "The run is not finished. The same command, with the same options, goes on; what is done is not done again."
        )
        return words, [f"cascade-train {run.command} {quote(run.recipe)} … --out {folder}"]
    if contents.zoo_task is not None:
        bundle = Path("repository") / contents.zoo_task.name / "1"
        return "The members are in a zoo: plan a cascade of them, and serve it.", [
            f"cascade-serve plan {quote(str(contents.zoo_task))} --out {bundle}",
            f"cascade-serve serve {bundle.parent.parent}",
        ]
    if contents.members:
        return "Add the members to a zoo, which the planner takes.", [f"cascade-train export {folder} --zoo zoo"]
    option, stage, file = (
        ("--subset", SELECTION, SUBSET_FILE)
        if run.command == "select"
        else ("--policy-schedule", POLICY, SCHEDULE_FILE)
    )
    path = quote(str(contents.path / stage / file))
    return "Train members with it; other options as before.", [
        f"cascade-train train {quote(run.recipe)} … {option} {path}"
    ]


def _lines(commands: list[str]) -> Markup:
    return element("pre", "\n".join(commands), class_="commands")
