"""What was run: recipe, data, splits, seeds, hardware and versions."""

import json
from collections.abc import Mapping
from typing import Any

from training.data.splits import PARTS
from training.report.contents import DataFacts, RunContents
from training.report.markup import (
    Markup,
    bullets,
    code,
    details,
    element,
    facts,
    fingerprint,
    join,
    numbers,
    table,
    words,
)
from training.report.quantities import percent, size_in_bytes
from training.report.section import Section

_MAX_FILES = 50


def run_section(contents: RunContents) -> Section:
    """Tell what was run, and on what."""
    body = [facts(_facts(contents))]
    if contents.data is not None:
        body += [_splits(contents.data), *_files_left_out(contents.data)]
    config = json.dumps(contents.run.config, indent=1, ensure_ascii=False)
    body.append(details("Full configuration", element("pre", config)))
    return Section(anchor="run", title="What was run", body=join(body))


def _facts(contents: RunContents) -> list[tuple[str, object]]:
    config, data = contents.config, contents.data
    return [
        ("command", code(f"cascade-train {contents.run.command} {contents.run.recipe}")),
        ("task", contents.run.task),
        ("source", code(_source(config["source"]))),
        ("images", None if data is None else f"{data.height}x{data.width} pixels, {_channels(data.channels)}"),
        ("classes", None if data is None else _classes(data.classes)),
        ("seed", config["seed"]),
        ("asked for device", f"{config['device']}{_threads(config['threads'])}"),
        ("trained on", ", ".join(dict.fromkeys(found.device for _, found in contents.trained)) or None),
        ("largest memory", _memory(contents)),
        ("versions", _versions(contents)),
    ]


def _source(source: Mapping[str, Any]) -> str:
    settings = [f"{name}={json.dumps(value)}" for name, value in source.items() if name != "kind"]
    return " ".join([str(source.get("kind", "own")), *settings])


def _channels(count: int) -> str:
    return "grey" if count == 1 else f"{count} channels"


def _classes(classes: tuple[str, ...]) -> Markup:
    shown = ", ".join(classes[:10])
    text = element("span", f"{len(classes)}: {shown}")
    if len(classes) <= 10:
        return text
    return join([f"{len(classes)}: {shown}, … ", details("all", ", ".join(classes))])


def _threads(threads: int | None) -> str:
    return "" if threads is None else f", {threads} CPU thread{'' if threads == 1 else 's'}"


def _memory(contents: RunContents) -> str | None:
    peaks = [found.peak_memory_bytes for _, found in contents.trained]
    if not peaks:
        return None
    is_gpu = any(found.device != "cpu" for _, found in contents.trained)
    return f"{size_in_bytes(max(peaks))} {'allocated on the GPU' if is_gpu else 'of the whole process'}"


def _versions(contents: RunContents) -> str | None:
    """Name each package's version; where stages were made with different ones, all of them."""
    found: dict[str, dict[str, None]] = {}
    for stage in contents.stages.values():
        for package, version in (stage.finished.record.versions if stage.finished else {}).items():
            found.setdefault(package, {})[version] = None
    return ", ".join(f"{package} {' and '.join(versions)}" for package, versions in sorted(found.items())) or None


def _splits(data: DataFacts) -> Markup:
    total = sum(data.images.values())
    columns = [*words("part"), *numbers("images", "share"), *words("sha256")]
    rows = [
        (name.replace("_", " "), f"{count:,}", percent(count / total), fingerprint(data.sha256[name]))
        for name, count in sorted(data.images.items(), key=lambda item: PARTS.index(item[0]))
    ]
    return table("Parts of the data: disjoint, stratified by class, drawn by the seed.", columns, rows)


def _files_left_out(data: DataFacts) -> list[Markup]:
    skipped = [join([code(file["path"]), f": {file['reason']}"]) for file in data.skipped]
    resized = [join([code(file["path"]), f": was {file['height']}x{file['width']}"]) for file in data.resized]
    return [
        details(
            f"{len(files):,} file{'' if len(files) == 1 else 's'} {what}",
            bullets([*files[:_MAX_FILES], *_and_more(files)]),
        )
        for files, what in ((skipped, "left out"), (resized, "resized"))
        if files
    ]


def _and_more(files: list[Markup]) -> list[str]:
    return [f"… and {len(files) - _MAX_FILES:,} more in data/data.json"] if len(files) > _MAX_FILES else []
