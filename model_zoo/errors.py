"""Errors of the model zoo.

ZooError
├── CardError       a card or another zoo file is missing, broken or not what its checksum says
├── ConflictError   a member of that name exists, or it does not fit its task
├── ExportError     a model can't be exported, or ONNX Runtime does not agree with torch
├── FlopsError      the cost of a graph can't be counted
├── ImageError      an image or a folder of images can't be read
└── UnknownArchitectureError
"""


class ZooError(Exception):
    """Root of the zoo's errors."""


class CardError(ZooError):
    """A card or another zoo file is missing, broken or not what its checksum says."""


class ConflictError(ZooError):
    """A member of that name exists already, or a member does not fit its task."""


class ExportError(ZooError):
    """A model can't be exported, or the exported graph does not agree with its source."""


class FlopsError(ZooError):
    """The cost of a graph can't be counted; the message names the node or shape at fault."""


class ImageError(ZooError):
    """An image or a folder of images can't be read, or passes a limit."""


class UnknownArchitectureError(ZooError):
    """No builder has that name."""
