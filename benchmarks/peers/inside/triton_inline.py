"""A Triton model of the Python backend: the whole hand-written cascade in one process an instance."""
# Shapes: B images of a request, K classes.

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from hand_written import Cascade, read_settings


class TritonPythonModel:
    """One instance is one process, with all members."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the members."""
        del args
        self._cascade = Cascade(read_settings())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer what Triton's batcher has put together, in one run."""
        images = [pb_utils.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        mean_BK = self._cascade.answer(images[0] if len(images) == 1 else np.concatenate(images))
        ends = np.cumsum([len(each) for each in images])[:-1]
        return [_answer(part) for part in np.split(mean_BK, ends)]


def _answer(mean_BK: Any) -> Any:
    label = pb_utils.Tensor("label", mean_BK.argmax(axis=1, keepdims=True))
    return pb_utils.InferenceResponse([label, pb_utils.Tensor("confidence", mean_BK.max(axis=1, keepdims=True))])
