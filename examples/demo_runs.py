"""What the demo asks the server: the test images, on one kind of terms after the other."""
# Shapes: N test images, HWC image.

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from demo_shell import console
from numpy.typing import NDArray
from rich.progress import Progress

from cascade_serve import Client
from cascade_serve.core.cost import format_flops, parse_flops
from cascade_serve.core.interval import wilson_interval
from cascade_serve.core.plan import Policy
from cascade_serve.rpc.info import ModelInfo
from model_zoo.image_folder import FolderImages

TASK = "digits"
LARGEST = "digits-large"
THRESHOLDS = (0.5, 0.8, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What one run asks for, and how the table calls it.

    Attributes:
        title: in the table.
        model: the cascade.
        query: parameters of the request.
    """

    title: str
    model: str
    query: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """All test images sent on the same terms, one a request.

    Attributes:
        terms: what was asked for.
        correct_N: bool [N].
        flops_N: int64 [N].
        exit_stage_N: int64 [N].
        latency_ms_N: float64 [N], from call to answer.
        certified: all answers were covered by the policy's promise.
    """

    terms: Terms
    correct_N: NDArray[np.bool_]
    flops_N: NDArray[np.int64]
    exit_stage_N: NDArray[np.int64]
    latency_ms_N: NDArray[np.float64]
    certified: bool

    def to_json(self) -> dict[str, Any]:
        """Give the figures that ``summary.json`` holds."""
        n = len(self.correct_N)
        hits = int(self.correct_N.sum())
        return {
            **asdict(self.terms),
            "n": n,
            "accuracy": hits / n,
            "accuracy_interval": wilson_interval(hits, n),
            "mean_flops": float(self.flops_N.mean()),
            "max_flops": int(self.flops_N.max()),
            "total_flops": int(self.flops_N.sum()),
            "exits": np.bincount(self.exit_stage_N).tolist(),
            "latency_ms": {name: float(np.percentile(self.latency_ms_N, q)) for name, q in (("p50", 50), ("p99", 99))},
            "certified": self.certified,
        }


def deepest_policy(info: ModelInfo) -> Policy:
    """Find the policy with the most stages; of equals, the default, then the dearest."""
    return max(
        info.policies.values(),
        key=lambda policy: (len(policy.stages), policy.name == "default", policy.worst_case_flops),
    )


def choose_terms(info: ModelInfo) -> list[Terms]:
    """Say what to ask for: the extremes, the planned policies, and a caller's own thresholds and cap."""
    deepest = deepest_policy(info)
    named = {} if deepest.name == "default" else {"policy": deepest.name}
    suffix = f" of {deepest.name}" if named else ""
    # Half-way between the last two stages' sums, so that the last stage is out of reach.
    cap = parse_flops(format_flops(sum(info.stage_flops[deepest.name][-2:]) / 2))
    return [
        Terms(title="largest member alone", model=LARGEST, query={}),
        Terms(title=f"ensemble{suffix}", model=TASK, query={**named, "mode": "ensemble"}),
        Terms(title="default policy", model=TASK, query={}),
        Terms(title="policy fast", model=TASK, query={"policy": "fast"}),
        *(
            Terms(
                title=f"threshold {threshold}{suffix}", model=TASK, query={**named, "confidence_threshold": threshold}
            )
            for threshold in THRESHOLDS
        ),
        Terms(
            title=f"at most {format_flops(cap)} FLOPs{suffix}",
            model=TASK,
            query={**named, "confidence_threshold": 0.95, "max_flops": cap},
        ),
    ]


def send_all(client: Client, test: FolderImages) -> list[Run]:
    """Send the test images on all terms."""
    wanted = choose_terms(client.info(TASK))
    console.print(f"{len(test.labels_N)} test images on {len(wanted)} kinds of terms: one caller, one image a request")
    runs = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=len(wanted))
        for terms in wanted:
            runs.append(send(client, test, terms))
            bar.advance(task)
    return runs


def send(client: Client, test: FolderImages, terms: Terms) -> Run:
    """Send the test images on the same terms, one a request."""
    predictions, latencies_ms = [], []
    for image_HWC in test.images_NHWC:
        start_s = time.perf_counter()
        predictions.append(client.infer(image_HWC, model=terms.model, **terms.query))
        latencies_ms.append(1e3 * (time.perf_counter() - start_s))
    return Run(
        terms=terms,
        correct_N=np.concatenate([_output(answer.label) for answer in predictions]) == test.labels_N,
        flops_N=np.concatenate([_output(answer.flops) for answer in predictions]),
        exit_stage_N=np.concatenate([_output(answer.exit_stage) for answer in predictions]).astype(np.int64),
        latency_ms_N=np.array(latencies_ms),
        certified=all(answer.certified for answer in predictions),
    )


def _output(array: NDArray[Any] | None) -> NDArray[Any]:
    """All outputs come back where none is named."""
    assert array is not None
    return array


def find_run(runs: Sequence[Run], title: str) -> Run:
    """Look a run up by its title."""
    return next(run for run in runs if run.terms.title == title)
