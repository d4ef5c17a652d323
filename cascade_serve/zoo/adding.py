"""The steps of ``zoo add``: read, load, export, convert, calibrate, write."""
# Shapes: N rows, K classes.

from pathlib import Path

import numpy as np

from cascade_serve.core.combine import is_usable
from cascade_serve.errors import ConfigError
from cascade_serve.zoo.addition import Added, Addition, Begin
from cascade_serve.zoo.calibration import CalibrationRows, check_capability, run_calibration
from cascade_serve.zoo.conversion import Converted, convert
from cascade_serve.zoo.member_card import make_card
from cascade_serve.zoo.source import Source, load_source, require_packages
from model_zoo import image_folder, store
from model_zoo.card import Card, TaskCard
from model_zoo.errors import CardError

_FAITHFUL = 0.95
"""Share of images that a converted member and its source should put into the same class."""


def add_member(addition: Addition, begin: Begin) -> Added:
    """Make a member: export and check, convert, run the calibration images through its engine, write it with its card.

    Args:
        addition: what is asked for.
        begin: hears of progress.

    Raises:
        ZooError: a file, image, model or name is at fault, or the member does not fit its task.
        ConfigError: the options contradict each other, or the engine lacks the precision.
        MissingExtraError: a package is needed and absent.
        MemberError: the engine fails on a run.
    """
    require_packages(addition)
    check_capability(addition.precision, addition.engine, addition.name)
    target = addition.task_path / store.check_name("member", addition.name)
    store.check_name("task", addition.task_path.absolute().name)
    store.check_free(target, overwrite=addition.overwrite)
    folder = image_folder.scan_image_folder(addition.data)
    if addition.quantisation is not None:
        # Again when they are read: a wrong path should be told before anything is loaded.
        image_folder.scan_image_folder(addition.quantisation.data)
    bound = _read_bound_task(addition.task_path, folder)
    layout = _layout(bound, folder, begin)
    begin("loading the model", None)
    source = load_source(addition, len(folder.classes), layout.channels)
    task = _choose_task(addition, folder, source, layout)
    if bound is not None:
        store.check_task(bound, task, addition.task_path / store.TASK_FILE)
    begin("exporting and checking the graph", None)
    converted = convert(addition, source.export(task), folder, task, begin, open_torch=source.open_torch)
    rows = run_calibration(converted.session, folder, task, addition.batch_size, begin)
    card = make_card(addition, task, source, converted, rows)
    member = _write(addition, card, source, converted, rows)
    return Added(member=member, warnings=(*_warnings(addition, source, converted, rows), *_neighbours(addition, card)))


def _read_bound_task(task_path: Path, folder: image_folder.ImageFolder) -> TaskCard | None:
    """Read the task that earlier members bound, and refuse other class names before anything is loaded."""
    file = task_path / store.TASK_FILE
    if not file.exists():
        return None
    bound = store.read_task(task_path)
    store.check_task(bound, bound.model_copy(update={"classes": folder.classes}), file)
    return bound


def _layout(bound: TaskCard | None, folder: image_folder.ImageFolder, begin: Begin) -> image_folder.FolderLayout:
    """Take the images' layout from the task, or, for its first member, from all images."""
    if bound is not None:
        return image_folder.FolderLayout(size=(bound.height, bound.width), channels=bound.channels)
    return image_folder.inspect_layout(folder, progress=begin("reading image headers", len(folder)))


def _choose_task(
    addition: Addition, folder: image_folder.ImageFolder, source: Source, layout: image_folder.FolderLayout
) -> TaskCard:
    """Take the size that was asked for, else that of the task or of all images, else the model's."""
    asked = addition.task_size
    size = (asked, asked) if asked is not None else layout.size or source.size
    if size is None:
        raise ConfigError("task size: the images differ in size and the model has none of its own; give --task-size")
    return TaskCard(height=size[0], width=size[1], channels=layout.channels, classes=folder.classes)


def _warnings(addition: Addition, source: Source, converted: Converted, rows: CalibrationRows) -> tuple[str, ...]:
    warnings, name = [], f"member {addition.name!r}"
    num_lost = int(np.count_nonzero(~is_usable(rows.data.logits_NK)))
    if num_lost:
        warnings.append(
            f"{name} gave no finite logits on {num_lost} of {len(rows.data.labels_N)} images; they count as wrong"
        )
    if source.seeds:
        warnings.append(f"{name} has RANDOM weights (seed {source.seeds[0]}): give --weights or --pretrained")
    card = converted.card
    if card is not None and card.same_label < _FAITHFUL:
        warnings.append(
            f"{name} and its fp32 source put only {100 * card.same_label:.1f} % of {card.n} images into the same class"
        )
    num_shared = int(np.isin(converted.quantisation_ids_N, rows.data.sample_ids_N).sum())
    if num_shared:
        warnings.append(
            f"{num_shared} of the {len(converted.quantisation_ids_N)} quantisation images are calibration images too;"
            " give --quantisation-data a folder of training images"
        )
    return tuple(warnings)


def _neighbours(addition: Addition, card: Card) -> tuple[str, ...]:
    """Warn of members of the task that can't be planned together with this one."""
    warnings, elsewhere = [], []
    others = (name for name in store.list_members(addition.task_path) if name != addition.name)
    for name in others:
        try:
            other = store.read_member(addition.task_path / name, verify=False)
        except CardError as error:
            warnings.append(f"member {name!r} can't be read: {error}")
            continue
        if other.card.provenance.data_sha256 != card.provenance.data_sha256:
            warnings.append(
                f"member {name!r} was calibrated on other images; planning needs the same images for all members"
            )
        if other.card.engine != card.engine:
            elsewhere.append(f"{name!r} ({other.card.engine})")
    if elsewhere:
        warnings.append(f"a plan is for one engine, so not for {card.engine} together with {', '.join(elsewhere)}")
    return tuple(warnings)


def _write(
    addition: Addition, card: Card, source: Source, converted: Converted, rows: CalibrationRows
) -> store.ZooMember:
    from model_zoo.graph import write_graph

    with store.new_member(addition.task_path, addition.name, overwrite=addition.overwrite) as folder:
        write_graph(converted.exported.graph, card, folder / store.GRAPH_FILE)
        source.write_files(card.task, folder)
        store.write_calibration(folder, rows.data)
        store.write_card(folder, card)
        # Last, so that a member that can't be written binds nobody.
        store.bind_task(addition.task_path, card.task)
    return store.read_member(addition.task_path / addition.name)
