"""From a torch module to a member's graph: preamble inside, dynamic batch, checked against torch in ONNX Runtime."""
# Shapes: B rows, K classes, BHWC images as they come in, BCHW as the network sees them.

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from model_zoo.card import AgreementCard, InputCard, TaskCard
from model_zoo.errors import ExportError
from model_zoo.flops import GraphCost, count_model
from model_zoo.graph import (
    AGREEMENT_IMAGES,
    BATCH_NAME,
    INPUT_NAME,
    MAX_GRAPH_BYTES,
    OUTPUT_NAME,
    ExportedModel,
    GraphSession,
    check_batch_invariance,
    largest_difference,
    random_images,
    strip_metadata,
)
from model_zoo.registry import BuiltModel
from model_zoo.served import ServedModule


def export_model(built: BuiltModel, task: TaskCard) -> ExportedModel:
    """Export a network to ONNX and check the graph.

    Args:
        built: the network, with its weights.
        task: image size and classes.

    Returns:
        the graph, with what is known about it.

    Raises:
        ExportError: the network can't be exported, is larger than 2 GiB, gives something else than [B, K] finite
            logits, or the graph does not agree with it.
        FlopsError: its cost can't be counted.
    """
    _check_size(built.module)
    served = ServedModule(built.module, built.preset, task).eval()
    images_BHWC = random_images(task, AGREEMENT_IMAGES)
    torch_BK = _run_torch(served, images_BHWC, len(task.classes))
    graph = export_graph(served, task)
    session = GraphSession(graph)
    logits_BK = session.logits(images_BHWC)
    difference = largest_difference(torch_BK, logits_BK, "ONNX Runtime against torch")
    check_batch_invariance(session, images_BHWC, logits_BK)
    cost = count_model(graph)
    params = sum(parameter.numel() for parameter in built.module.parameters())
    preset = built.preset
    return ExportedModel(
        graph=graph,
        input=InputCard(height=preset.height, width=preset.width, mean=preset.mean, std=preset.std),
        cost=GraphCost(flops=cost.flops, macs=cost.macs, params=params),
        agreement=AgreementCard(max_logit_difference=difference, n=AGREEMENT_IMAGES),
    )


def _check_size(module: nn.Module) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size > MAX_GRAPH_BYTES:
        raise ExportError(f"weights: got {size} bytes; must be at most {MAX_GRAPH_BYTES} (2 GiB), one ONNX file")


def _run_torch(served: ServedModule, images_BHWC: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    try:
        with torch.inference_mode():
            output = served(torch.from_numpy(images_BHWC))
    except (RuntimeError, ValueError, AssertionError, AttributeError, TypeError) as error:
        raise ExportError(f"the network fails on images {images_BHWC.shape}: {error}") from error
    wanted = (len(images_BHWC), classes)
    if tuple(output.shape) != wanted:
        raise ExportError(f"the network's output: got shape {list(output.shape)}; must be {list(wanted)}")
    logits_BK: NDArray[np.float32] = output.numpy()
    return logits_BK


def export_graph(served: ServedModule, task: TaskCard) -> ModelProto:
    """Export a module with its preamble, without any check.

    Args:
        served: in evaluation mode; its weights may be fake tensors, when only the graph matters.
        task: image size and classes.

    Raises:
        ExportError: torch can't export it.
    """
    # A batch of 2: torch would take 1 for a constant.
    example_BHWC = torch.zeros((2, task.height, task.width, task.channels), dtype=torch.uint8)
    with _out_of_place(served), warnings.catch_warnings():
        # The exporter warns of its own internals.
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                served,
                (example_BHWC,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim(BATCH_NAME)}},
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"torch can't export the network with a dynamic batch: {error}") from error
    if program is None:
        raise ExportError("torch's exporter gave nothing")
    graph = program.model_proto
    strip_metadata(graph.graph)
    return graph


@contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Let activations that write into their input make a new tensor, which the exporter traces in half the time."""
    parts: list[Any] = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    for part in parts:
        part.inplace = False
    try:
        yield
    finally:
        for part in parts:
            part.inplace = True
