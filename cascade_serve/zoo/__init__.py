"""``zoo add``: a model and a folder of labelled images become a member."""

from cascade_serve.zoo.adding import add_member
from cascade_serve.zoo.addition import Added, Addition, Begin, Descent, OnnxModel, Quantisation, TorchModel

__all__ = ["Added", "Addition", "Begin", "Descent", "OnnxModel", "Quantisation", "TorchModel", "add_member"]
