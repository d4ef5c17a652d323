"""Errors of the model zoo.

ZooError
├── CardError       a card or another zoo file is missing, broken or not what its checksum says
├── ExportError     a model can't be exported, or ONNX Runtime does not agree with torch
└── UnknownArchitectureError
"""


class ZooError(Exception):
    """Root of the zoo's errors."""


class CardError(ZooError):
    """A card or another zoo file is missing, broken or not what its checksum says."""


class ExportError(ZooError):
    """A model can't be exported, or the exported graph does not agree with its source."""


class UnknownArchitectureError(ZooError):
    """No builder has that name."""
