"""How alike the members rank images: Spearman's rank correlation between all of them."""
# Shapes: N images, K classes.

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.combine import softmax
from training.errors import RunDirError
from training.pipeline.evaluation_stage import LOGITS_FILE, PARTS, STAGE
from training.report.contents import RunContents
from training.report.markup import Markup, details, join, numbers, paragraph, table, words
from training.report.pictures import Picture, PictureName, gallery
from training.report.section import Section
from training.run_stage import FinishedStage
from training.selection.correlation import RankCorrelation, correlate_ranks, draw_correlation
from training.selection.methods import ENTROPY, LEAST_CONFIDENCE, MARGIN

_SCORES = {
    LEAST_CONFIDENCE: PictureName.RANKS_LEAST_CONFIDENCE,
    MARGIN: PictureName.RANKS_MARGIN,
    ENTROPY: PictureName.RANKS_ENTROPY,
}


def ranks_section(contents: RunContents) -> Section | None:
    """Compare the rankings of all members; None where fewer than two were evaluated."""
    stage = contents.done(STAGE)
    if stage is None:
        return None
    logits = _read_logits(stage, [member.name for member in contents.members if member.accuracy])
    sound = {name: logits_NK for name, logits_NK in logits.items() if np.isfinite(logits_NK).all()}
    if len(sound) < 2:
        return None
    probabilities = {name: softmax(logits_NK) for name, logits_NK in sound.items()}
    pictures, tables = [], []
    for score, name in _SCORES.items():
        scores = {member: score.rate(probabilities_NK) for member, probabilities_NK in probabilities.items()}
        found = correlate_ranks(score.name, scores)
        pictures.append(_picture(found, name))
        tables.append(_table(found))
    body = [paragraph(_words(sound, set(logits) - set(sound))), gallery(pictures), details("In numbers", *tables)]
    return Section(anchor="ranks", title="Rank correlation", body=join(body), pictures=tuple(pictures))


def _words(sound: dict[str, FloatArray], broken: set[str]) -> str:
    images = len(next(iter(sound.values())))
    left_out = f" Left out, because it gave logits that are not finite: {', '.join(sorted(broken))}." if broken else ""
    return (
        "A small member can stand in for a large one, as a proxy, where both rank images alike: 1 is the same order, 0"
        f" none in common. Ranked are the {images:,} images of {' and '.join(PARTS)}, which no member was trained"
        f" on.{left_out}"
    )


def _read_logits(stage: FinishedStage, members: list[str]) -> dict[str, FloatArray]:
    """Read each member's logits on all parts together, float32 [N, K]."""
    path = stage.folder / LOGITS_FILE
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunDirError(f"{path}: can't be read: {error}") from error
    try:
        return {name: np.concatenate([arrays[f"{name}/{part}"] for part in PARTS]) for name in members}
    except KeyError as error:
        raise RunDirError(f"{path}: got no {error}; must hold all members' logits on {' and '.join(PARTS)}") from error


def _picture(found: RankCorrelation, name: PictureName) -> Picture:
    values = [value for place, row in enumerate(found.matrix) for value in row[:place] if value is not None]
    told = f"from {min(values):.2f} to {max(values):.2f}" if values else "none"
    return Picture(
        name=name,
        figure=draw_correlation(found),
        caption=f"Spearman's rank correlation by {found.score}.",
        text=f"Heat map of the rank correlation of {len(found.names)} members by {found.score}: {told}.",
        is_on_paper=True,
    )


def _table(found: RankCorrelation) -> Markup:
    rows = [
        (name, *("none" if value is None else f"{value:.3f}" for value in row))
        for name, row in zip(found.names, found.matrix, strict=True)
    ]
    columns = [*words(""), *numbers(*found.names)]
    return table(f"{found.score}, {found.num_images:,} images", columns, rows)
