"""A Triton model of the Python backend: one member, its probabilities out."""
# Shapes: B images of a request, K classes.

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from hand_written import Member, read_settings


class TritonPythonModel:
    """One instance is one process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the member that the model's configuration names by its stage."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = read_settings()
        self._member = Member(settings.graphs[int(parameters["stage"]["string_value"])], settings)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer what Triton's batcher has put together, in one run."""
        images = [pb_utils.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        merged_BHWC = images[0] if len(images) == 1 else np.concatenate(images)
        probabilities_BK = self._member.probabilities(merged_BHWC)
        ends = np.cumsum([len(each) for each in images])[:-1]
        parts = [probabilities_BK] if len(images) == 1 else np.split(probabilities_BK, ends)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", part)]) for part in parts]
