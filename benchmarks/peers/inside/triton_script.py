"""A Triton model of the Python backend: the cascade scripted in the server, over members that are models of their own.

Triton calls this business logic scripting. The requests of a batch wait for the members at the same time, as its
documentation advises.
"""
# Shapes: B images of a request, K classes.

import asyncio
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from hand_written import read_settings


class TritonPythonModel:
    """One instance is one process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Remember the threshold."""
        del args
        self._threshold = read_settings().threshold

    async def execute(self, requests: list[Any]) -> list[Any]:
        """Answer what Triton's batcher has put together."""
        return list(await asyncio.gather(*(self._answer(request) for request in requests)))

    async def _answer(self, request: Any) -> Any:
        images = pb_utils.get_input_tensor_by_name(request, "images")
        mean_BK = await _ask("member0", images)
        staying = np.flatnonzero(mean_BK.max(axis=1) < self._threshold)
        if len(staying):
            images_BHWC = images.as_numpy()
            rest = images if len(staying) == len(images_BHWC) else pb_utils.Tensor("images", images_BHWC[staying])
            mean_BK = mean_BK.copy()
            mean_BK[staying] += (await _ask("member1", rest) - mean_BK[staying]) / np.float32(2)
        label = pb_utils.Tensor("label", mean_BK.argmax(axis=1, keepdims=True))
        return pb_utils.InferenceResponse([label, pb_utils.Tensor("confidence", mean_BK.max(axis=1, keepdims=True))])


async def _ask(member: str, images: Any) -> Any:
    request = pb_utils.InferenceRequest(
        model_name=member,
        requested_output_names=["probabilities"],
        inputs=[images],
        # Without this the answer may lie in a GPU's memory.
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = await request.async_exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return pb_utils.get_output_tensor_by_name(response, "probabilities").as_numpy()
