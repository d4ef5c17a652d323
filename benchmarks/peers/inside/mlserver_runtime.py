"""A custom runtime for MLServer with the hand-written cascade; each of its parallel workers has one."""
# Shapes: B images of a request, HWC image.

import numpy as np
from hand_written import Cascade, read_settings
from mlserver import MLModel
from mlserver.types import Datatype, InferenceRequest, InferenceResponse, ResponseOutput, TensorData


class CascadeRuntime(MLModel):  # type: ignore[misc]  # MLServer is not installed where types are checked
    """Images come as BYTES, an element each: MLServer makes a Python list of a UINT8 tensor, an integer a byte."""

    async def load(self) -> bool:
        """Open the members."""
        self._cascade = Cascade(read_settings())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        pixels = b"".join(payload.inputs[0].data)
        images_BHWC = np.frombuffer(pixels, np.uint8).reshape(-1, *self._cascade.image_shape)
        mean_BK = self._cascade.answer(images_BHWC)
        outputs = [
            _output("label", Datatype.INT64, mean_BK.argmax(axis=1).tolist()),
            _output("confidence", Datatype.FP32, mean_BK.max(axis=1).tolist()),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def _output(name: str, datatype: Datatype, values: list[float]) -> ResponseOutput:
    return ResponseOutput(name=name, shape=[len(values)], datatype=datatype, data=TensorData(root=values))
