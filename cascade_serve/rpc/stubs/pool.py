"""The descriptor pool of our own stubs: apart from the default one, where tritonclient puts the same names."""

import copyreg
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

POOL = DescriptorPool()


def make_picklable(message_class: type[Message]) -> None:
    """Let messages nested in this class be pickled.

    Protobuf unpickles nested messages by a look-up in the default pool: there, ours are missing, or another package's.
    """
    for nested in message_class.DESCRIPTOR.nested_types:
        if not nested.GetOptions().map_entry:
            nested_class = getattr(message_class, nested.name)
            copyreg.pickle(nested_class, _reduce)
            make_picklable(nested_class)


def _reduce(message: Message) -> tuple[type[Message], tuple[()], Any]:
    return type(message), (), message.__getstate__()
