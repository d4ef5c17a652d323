"""The descent: which stage read what, and what came of it, with fingerprints."""

from training.report.contents import RunContents
from training.report.markup import Markup, code, element, fingerprint, join, numbers, paragraph, table, words
from training.report.quantities import duration
from training.report.section import Section
from training.report.sections.descent_graph import Box, draw_graph
from training.report.stages import RunStage, StageState
from training.run_record import InputRecord

_MAX_OUTPUTS = 6


def descent_section(contents: RunContents) -> Section:
    """Draw the stages and what they handed over, and list it with fingerprints."""
    stages = list(contents.stages.values())
    body = join(
        [
            paragraph(
                "Every hand-over is a file, named by the sha256 of its content; a stage is done again only where its"
                " settings or one of its inputs change. The table lists all that a stage has read; the picture leaves"
                " out what it shows by way of another stage."
            ),
            draw_graph([_box(stage) for stage in stages]),
            _table(stages),
        ]
    )
    return Section(anchor="descent", title="Descent", body=body)


def _box(stage: RunStage) -> Box:
    record = None if stage.finished is None else stage.finished.record
    return Box(
        name=stage.name,
        state=str(stage.state),
        line=str(stage.state) if record is None or stage.state is not StageState.DONE else _line(stage),
        reads=stage.reads,
        is_ahead=stage.state is StageState.MISSING,
    )


def _line(stage: RunStage) -> str:
    assert stage.finished is not None, "done"
    record = stage.finished.record
    return f"{record.outputs_sha256[:10]} · {duration(record.seconds)}"


def _table(stages: list[RunStage]) -> Markup:
    columns = [*words("stage", "state", "read", "made"), *numbers("time", "CPU time")]
    caption = "Stages, what they read and made (beginning of the sha256), and how long they took in all attempts."
    return table(caption, columns, [_row(stage) for stage in stages])


def _row(stage: RunStage) -> list[object]:
    state = element("span", stage.state, class_=f"state {_css_class(stage.state)}")
    if stage.finished is None:
        return [stage.name, state, "", "", "", ""]
    record = stage.finished.record
    read = [join([f"{label}: ", *_source(found)]) for label, found in record.inputs.items()]
    made = [
        join([code(path), " ", fingerprint(sha256)]) for path, sha256 in list(record.outputs.items())[:_MAX_OUTPUTS]
    ]
    if len(record.outputs) > _MAX_OUTPUTS:
        more = len(record.outputs) - _MAX_OUTPUTS
        made.append(join([f"… and {more:,} more; together ", fingerprint(record.outputs_sha256)]))
    return [stage.name, state, _lines(read), _lines(made), duration(record.seconds), duration(record.process_seconds)]


def _source(found: InputRecord) -> list[object]:
    where = "/".join(part for part in (found.stage, found.path) if part)
    return [*([code(where), " "] if where else []), fingerprint(found.sha256)]


def _lines(items: list[Markup]) -> Markup:
    return join(element("div", item) for item in items)


def _css_class(state: StageState) -> str:
    return state.name.lower()
