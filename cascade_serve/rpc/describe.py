"""How cascades and members describe themselves: metadata and configuration, in the standard's and Triton's words."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from cascade_serve.bundle import GRAPH_FILE
from cascade_serve.core.cost import cumulative_flops
from cascade_serve.core.plan import DEFAULT_POLICY, Calibration, Plan, Policy
from cascade_serve.rpc.directory import Subject, member_name
from cascade_serve.rpc.outputs import OUTPUTS
from cascade_serve.rpc.ports import Served
from cascade_serve.rpc.stubs import model_config_pb2 as config_pb2
from cascade_serve.rpc.stubs.grpc_service_pb2 import ModelMetadataResponse
from cascade_serve.rpc.tensors import ENCODED, IMAGES

CASCADE_PLATFORM = "ensemble"
_LOGITS = "logits"
_DATA_TYPES = {
    "UINT8": config_pb2.TYPE_UINT8,
    "BYTES": config_pb2.TYPE_STRING,
    "FP32": config_pb2.TYPE_FP32,
    "INT32": config_pb2.TYPE_INT32,
    "INT64": config_pb2.TYPE_INT64,
}
_POLICIES = TypeAdapter(Mapping[str, Policy])
_CALIBRATION = TypeAdapter(Calibration | None)

# Tensor name → its datatype and its dims without the batch.
_Tensors = dict[str, tuple[str, tuple[int, ...]]]


def metadata(subject: Subject, versions: list[str]) -> ModelMetadataResponse:
    """Describe the tensors of a cascade or a member; -1 is any number of images."""
    response = ModelMetadataResponse(name=subject.name, versions=versions, platform=_platform(subject))
    inputs, outputs = _tensors(subject)
    for tensors, target in ((inputs, response.inputs), (outputs, response.outputs)):
        for name, (datatype, dims) in tensors.items():
            target.add(name=name, datatype=datatype, shape=(-1, *dims))
    return response


def config(subject: Subject) -> config_pb2.ModelConfig:
    """Describe all that is known of a cascade or a member."""
    message = config_pb2.ModelConfig(name=subject.name, platform=_platform(subject))
    message.version_policy.latest.num_versions = 1
    message.model_transaction_policy.decoupled = False
    _add_tensors(message, subject)
    if subject.member is None:
        _add_cascade(message, subject.served)
    else:
        _add_member(message, subject)
    for key, value in _facts(subject).items():
        message.parameters[key].string_value = json.dumps(value, ensure_ascii=False)
    return message


def _platform(subject: Subject) -> str:
    return CASCADE_PLATFORM if subject.member is None else subject.served.engine.fingerprint.engine


def _tensors(subject: Subject) -> tuple[_Tensors, _Tensors]:
    task = subject.served.bundle.plan.task
    classes = (len(task.classes),)
    inputs: _Tensors = {IMAGES: ("UINT8", task.image_shape)}
    if subject.member is not None:
        return inputs, {_LOGITS: ("FP32", classes)}
    outputs: _Tensors = {
        name: (output.datatype, classes if output.has_classes else ()) for name, output in OUTPUTS.items()
    }
    return {**inputs, ENCODED: ("BYTES", ())}, outputs


def _add_tensors(message: config_pb2.ModelConfig, subject: Subject) -> None:
    inputs, outputs = _tensors(subject)
    for name, (datatype, dims) in inputs.items():
        image_format = config_pb2.ModelInput.FORMAT_NHWC if name == IMAGES else config_pb2.ModelInput.FORMAT_NONE
        message.input.add(
            name=name,
            data_type=_DATA_TYPES[datatype],
            format=image_format,
            dims=dims,
            optional=subject.member is None,
        )
    for name, (datatype, dims) in outputs.items():
        message.output.add(name=name, data_type=_DATA_TYPES[datatype], dims=dims)


def _add_cascade(message: config_pb2.ModelConfig, served: Served) -> None:
    message.max_batch_size = served.engine.config.max_queue_rows
    # Of its outputs, a member's logits feed only what the gate computes from them.
    for stage in served.bundle.plan.policy(DEFAULT_POLICY).stages:
        message.ensemble_scheduling.step.add(
            model_name=member_name(served, stage.member),
            model_version=-1,
            input_map={IMAGES: IMAGES},
            output_map={_LOGITS: "probabilities"},
        )


def _add_member(message: config_pb2.ModelConfig, subject: Subject) -> None:
    bounds = subject.served.engine.config
    message.backend = subject.served.engine.fingerprint.engine
    message.max_batch_size = bounds.max_batch_size
    message.default_model_filename = GRAPH_FILE
    message.dynamic_batching.preferred_batch_size.extend(bounds.batch_buckets)
    message.dynamic_batching.max_queue_delay_microseconds = round(bounds.max_queue_delay_s * 1e6)
    message.instance_group.add(
        name=f"{subject.name}_0", kind=config_pb2.ModelInstanceGroup.KIND_AUTO, count=bounds.workers
    )


def _facts(subject: Subject) -> dict[str, Any]:
    """Give what a client may want to know beyond the tensors, each fact a JSON value."""
    plan = subject.served.bundle.plan
    if subject.member is not None:
        member = subject.member
        return {"flops": member.flops, "precision": member.precision, "temperature": member.temperature}
    return {
        "version": subject.served.version,
        "classes": plan.task.classes,
        "combine": plan.combine,
        "confidence": plan.confidence,
        "members": {member.name: {"flops": member.flops, "precision": member.precision} for member in plan.members},
        "policies": _POLICIES.dump_python(plan.policies, mode="json"),
        "stage_flops": {name: _stage_flops(plan, policy) for name, policy in plan.policies.items()},
        "reference": plan.reference,
        "calibration": _CALIBRATION.dump_python(plan.calibration, mode="json"),
    }


def _stage_flops(plan: Plan, policy: Policy) -> tuple[int, ...]:
    """Give what one image has cost after each stage: the caps at which another stage fits."""
    return cumulative_flops([plan.members[plan.member_index[stage.member]].flops for stage in policy.stages])
