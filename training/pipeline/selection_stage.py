"""The stages of selection: a subset by a proxy, and rankings that data schedules are ordered by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cascade_serve.core.arrays import FloatArray
from training.config import SelectionConfig
from training.data.images import LabelledImages
from training.errors import SelectionError, SettingsError
from training.member_job import cpu_threads
from training.members import MemberTrainer
from training.pipeline.data_stage import Material
from training.pipeline.listening import EpochProgress, Listener
from training.pipeline.order import Order
from training.run_dir import Input, RunDir
from training.run_stage import Stage
from training.selection.active_learning import run_active_learning
from training.selection.core_set import rank_all, select_core_set
from training.selection.methods import find_core_set_method
from training.selection.subset import Subset, read_subset, write_subset
from training.settings import to_json

STAGE = "selection"
RANKING = "ranking-"
"""Begins the name of a ranking's stage; the score's name ends it."""
SUBSET_FILE = "subset.json"
SCORES_FILE = "scores.safetensors"


def select_subset(run: RunDir, order: Order, material: Material, listener: Listener) -> Path:
    """Choose a subset of train by a proxy, or take the one that lies there.

    Args:
        run: the run's folder.
        order: its configuration has a selection.
        material: what is chosen from.
        listener: hears of progress.

    Returns:
        the subset's file.

    Raises:
        SelectionError: nothing can be chosen as asked.
        RunDirError: the folder is at fault.
    """
    selection = order.config.selection
    assert selection is not None, "checked before"
    with run.stage(
        STAGE, config=_settings(order, material, to_json(selection)), inputs={"train": material.file("train")}
    ) as stage:
        is_new = not stage.is_done
        if is_new:
            trainer = _trainer(order, selection, material, stage, listener)
            with cpu_threads(order.config.threads):
                subset = _select(selection, material.parts.train, trainer, stage.path)
            write_subset(subset, stage.path / SUBSET_FILE)
            stage.finish(describe_subset(subset, len(material.parts.train)))
        subset = read_subset(stage.path / SUBSET_FILE)
        listener.tell(
            f"selection: {len(subset):,} of {len(material.parts.train):,} images by {subset.score},"
            f" {subset.seconds.total.wall_s:.1f} s{'' if is_new else ' (as before)'}"
        )
        return stage.path / SUBSET_FILE


def describe_subset(subset: Subset, num_images: int) -> JsonValue:
    """Tell how a subset came about, for cards and reports."""
    return {
        "score": subset.score,
        "fraction": subset.fraction,
        "subset_size": len(subset),
        "num_images": num_images,
        "class_balance": subset.class_balance,
        "seed": subset.seed,
        "seconds": subset.seconds.total.wall_s,
        "evaluations": subset.proxy_evaluations,
        "proxy": None if subset.proxy is None else dict(subset.proxy),
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """What the members train on.

    Attributes:
        rows: of train.
        file: of the subset that they are; None for all of train.
        description: how they were chosen; None for all of train.
    """

    rows: LabelledImages
    file: Path | None = None
    description: JsonValue = None

    @property
    def inputs(self) -> dict[str, Input]:
        """The subset as a stage's input."""
        return {} if self.file is None else {"subset": self.file}


def take_chosen(material: Material, file: Path | None) -> Chosen:
    """Take a subset out of train, or all of it.

    Args:
        material: what it was chosen from.
        file: of the subset; None for all.

    Raises:
        SelectionError: the file can't be read, or was chosen from other images.
    """
    train = material.parts.train
    if file is None:
        return Chosen(rows=train)
    subset = read_subset(file)
    return Chosen(rows=subset.apply(train), file=file, description=describe_subset(subset, len(train)))


def rank_images(
    run: RunDir, order: Order, material: Material, chosen: Chosen, *, score: str, listener: Listener
) -> Path:
    """Rank what the members train on by a score, for a data schedule that names it, or take what lies there.

    Args:
        run: the run's folder.
        order: its configuration names a proxy.
        material: the data.
        chosen: the images to rank.
        score: the score's name.
        listener: hears of progress.

    Returns:
        the file of the scores.

    Raises:
        SettingsError: no proxy is named.
        SelectionError: the score is not known or does not rank all.
    """
    selection = order.config.selection
    if selection is None:
        raise SettingsError(f"data schedule: score {score!r} needs a proxy; selection must not be null")
    # Before it names a stage.
    find_core_set_method(score)
    inputs = {"train": material.file("train"), **chosen.inputs}
    settings = _settings(order, material, {"proxy": to_json(selection.proxy), "score": score})
    with run.stage(f"{RANKING}{score}", config=settings, inputs=inputs) as stage:
        if not stage.is_done:
            trainer = _trainer(order, selection, material, stage, listener)
            with cpu_threads(order.config.threads):
                ranking = rank_all(score, chosen.rows, trainer, seed=order.config.seed)
            scores_N = ranking.ranking_scores(chosen.rows)
            save_file({"ids": chosen.rows.ids_B, "scores": scores_N}, stage.path / SCORES_FILE)
            stage.finish(describe_subset(ranking, len(chosen.rows)))
            listener.tell(f"ranking: {len(chosen.rows):,} images by {score}")
        return stage.path / SCORES_FILE


def read_scores(path: Path, rows: LabelledImages) -> FloatArray:
    """Read the scores of some images, float32 [N], higher first.

    Raises:
        SelectionError: the file is damaged, or of other images.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SelectionError(f"{path}: can't be read: {error}") from error
    if not np.array_equal(arrays.get("ids", np.zeros(0)), rows.ids_B) or "scores" not in arrays:
        raise SelectionError(f"{path}: ids: got other images; must be those that are trained on")
    scores_N: FloatArray = arrays["scores"].astype(np.float32)
    return scores_N


def _select(selection: SelectionConfig, train: LabelledImages, trainer: MemberTrainer, folder: Path) -> Subset:
    if selection.active_learning is not None:
        return run_active_learning(selection.active_learning, train, trainer, folder=folder)[-1]
    core_set = select_core_set(selection.core_set, train, trainer)
    if core_set.scores_N is not None:
        save_file({"ids": train.ids_B, "scores": core_set.scores_N}, folder / SCORES_FILE)
    return core_set.subset


def _settings(order: Order, material: Material, selection: JsonValue) -> JsonValue:
    return {"selection": selection, "normalisation": material.normalisation, "device": order.config.device}


def _trainer(
    order: Order, selection: SelectionConfig, material: Material, stage: Stage, listener: Listener
) -> MemberTrainer:
    return MemberTrainer(
        config=selection.proxy,
        normalisation=material.parts.normalisation,
        device=order.config.device,
        folder=stage.scratch,
        progress=EpochProgress(listener, "the proxy"),
    )
