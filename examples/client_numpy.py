"""Ask a served cascade with our own client: arrays and files in, a dataclass out, each call on its own terms.

Start a server first, such as: cascade-serve serve demo_out/repository
Then: python examples/client_numpy.py 127.0.0.1:8001 digits demo_out/test/7/*.png
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_serve import Client


def main(url: str, model: str, *files: str) -> None:
    """Classify some files three times, on different terms, and an array of pixels."""
    encoded = [Path(file).read_bytes() for file in files]
    with Client(url, timeout_s=10) as client:
        info = client.info(model)
        first_stage = next(iter(info.stage_flops["default"]))
        wishes: tuple[dict[str, Any], ...] = ({}, {"confidence_threshold": 0.99}, {"max_flops": first_stage})
        for terms in wishes:
            answer = client.infer(encoded, model=model, outputs=["label", "confidence", "exit_stage", "flops"], **terms)
            print(f"{terms or 'the planned default'} (covered by the plan's promise: {answer.certified})")
            columns = [given(output) for output in (answer.label, answer.confidence, answer.exit_stage, answer.flops)]
            for file, label, sure, stage, flops in zip(files, *columns, strict=True):
                print(f"  {file}: {info.classes[label]} ({sure:.3f}) from stage {stage} for {flops:,} FLOPs")

        # Pixels travel as uint8 [n, height, width, channels]; the members resize and normalise by themselves.
        pixels_BHWC = np.zeros((2, *info.image_shape), dtype=np.uint8)
        answer = client.infer(pixels_BHWC, model=model, mode="ensemble")
        print(f"two black images, all members asked: probabilities of shape {given(answer.probabilities).shape}")


def given(output: NDArray[Any] | None) -> NDArray[Any]:
    """Only outputs that were not asked for are None."""
    assert output is not None
    return output


if __name__ == "__main__":
    main(*sys.argv[1:])
