"""Small image folders for tests: one class a brightness, so that even tiny networks see a difference."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(path: Path, *, classes: int = 3, per_class: int = 8, size: int = 8, grey: bool = True) -> Path:
    """Write ``class_<k>/<i>.png``; class k is noise around a brightness of its own."""
    generator = np.random.default_rng(0)
    shape = (size, size) if grey else (size, size, 3)
    for label in range(classes):
        folder = path / f"class_{label}"
        folder.mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.normal(255 * (label + 0.5) / classes, 20, shape).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return path
