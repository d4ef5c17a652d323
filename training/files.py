"""Files that are whole or not there, and their fingerprints."""

import hashlib
import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by way of a neighbour that is renamed, so that a reader never sees half of it.

    Args:
        path: an existing file is replaced; its folder is made where it is absent.
        data: what the file holds then.

    Raises:
        OSError: the file can't be written; an older one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Give the fingerprint (hex) of a file's bytes.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
