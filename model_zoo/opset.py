"""Raises a graph's opset where something needs a later one."""

from onnx import ModelProto
from onnx.version_converter import ConvertError, convert_version

from model_zoo.errors import ExportError


def raise_opset(model: ModelProto, least: int, purpose: str) -> ModelProto:
    """Copy a model, in the standard's opset ``least`` where its own is below.

    Args:
        model: stays as it is.
        least: the first opset that will do.
        purpose: what needs it, and what else helps, for the message.

    Raises:
        ExportError: it can't be converted.
    """
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    copy = ModelProto()
    copy.CopyFrom(model)
    if opset >= least:
        return copy
    try:
        converted: ModelProto = convert_version(copy, least)
    except (ConvertError, RuntimeError) as error:
        raise ExportError(
            f"opset: got {opset}; must be at least {least} {purpose}: it can't be converted ({error})"
        ) from error
    converted.ir_version = copy.ir_version
    return converted
