import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from cascade_serve.errors import ConfigError, ExistsError, InvalidRequestError, NotFoundError, OverloadedError
from cascade_serve.rpc.shared_memory import RegionSpec, RegionTable, Span
from cascade_serve.rpc.stubs.grpc_service_pb2 import InferParameter, ModelInferRequest

CONTENTS = bytes(range(100))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that takes the system's place, with one object of 100 bytes."""
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm" / "box").write_bytes(CONTENTS)
    (tmp_path / "secret").write_bytes(CONTENTS)
    return tmp_path / "shm"


@pytest.fixture
def table(folder: Path) -> RegionTable:
    return RegionTable(max_input_bytes=64, max_regions=3, folder=folder)


def spec(name: str = "in", key: str = "/box", offset: int = 0, byte_size: int = 100) -> RegionSpec:
    return RegionSpec(name=name, key=key, offset=offset, byte_size=byte_size)


def place(
    region: str | None = "in", byte_size: int | None = 10, offset: int | None = None
) -> Mapping[str, InferParameter]:
    parameters = ModelInferRequest.InferInputTensor().parameters
    if region is not None:
        parameters["shared_memory_region"].string_param = region
    for name, value in (("shared_memory_byte_size", byte_size), ("shared_memory_offset", offset)):
        if value is not None:
            parameters[name].int64_param = value
    return parameters


def span(table: RegionTable, byte_size: int = 10, offset: int = 0) -> Span:
    return table.input_span("images", place(byte_size=byte_size, offset=offset))


def num_open(path: Path) -> int:
    """Count this process's descriptors of a file."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        # The listing's own has gone meanwhile.
        with suppress(FileNotFoundError):
            count += descriptor.samefile(path)
    return count


def test_regions_come_are_listed_and_go(table: RegionTable) -> None:
    first, second = spec("in", "/box", 10, 20), spec("out", "box", 0, 100)
    table.register(first)
    table.register(second)
    assert table.status() == [first, second]
    assert table.status("out") == [second]
    table.unregister("in")
    table.unregister("never there")
    assert table.status() == [second]
    table.unregister()
    assert table.status() == []
    with pytest.raises(NotFoundError, match=r"^shared memory region 'out' not found; known: none$"):
        table.status("out")


def test_a_name_is_taken_once(table: RegionTable) -> None:
    table.register(spec())
    with pytest.raises(ExistsError, match=r"^shared memory region 'in' is there already$"):
        table.register(spec(byte_size=5))
    assert table.status() == [spec()]


def test_there_is_a_most_of_regions(table: RegionTable, folder: Path) -> None:
    for number in range(3):
        table.register(spec(f"region-{number}"))
    with pytest.raises(OverloadedError, match=r"^3 shared memory regions are registered, the most there may be$"):
        table.register(spec("one more"))
    assert num_open(folder / "box") == 3


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "//box",
        "box/",
        "../secret",
        "/../secret",
        "a/../box",
        "..",
        ".",
        "/..",
        "box\0",
        "x" * 256,
        "ä" * 128,
        "sem.lock",
        "/sem.lock",
    ],
)
def test_keys_that_are_no_object_are_refused(table: RegionTable, folder: Path, key: str) -> None:
    (folder / "sem.lock").write_bytes(CONTENTS)
    with pytest.raises(
        InvalidRequestError, match=r"^key: got .*; must be the name of a shared memory object: 1 to 255"
    ):
        table.register(spec(key=key))
    assert table.status() == []


def test_only_plain_objects_are_opened(table: RegionTable, folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    for key, reason in (
        ("link", "Too many levels of symbolic links"),
        ("folder", "Is a directory"),
        ("missing", "No such file or directory"),
    ):
        with pytest.raises(
            InvalidRequestError, match=rf"^key: got '{key}'; must be a shared .* may open \({reason}\)$"
        ):
            table.register(spec(key=key))
    with pytest.raises(InvalidRequestError, match=r"^key: got 'pipe'; must be a shared memory object, and no folder"):
        table.register(spec(key="pipe"))
    assert not (folder / "missing").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (spec(name=""), "name: got 0 bytes; must be 1 to 255 bytes"),
        (spec(name="ä" * 128), "name: got 256 bytes; must be 1 to 255 bytes"),
        (spec(byte_size=0), "byte_size: got 0; must be between 1 and 9223372036854775807"),
        (spec(byte_size=101), "byte_size: got 101; must be at most 100: the object has 100 bytes, and the offset is 0"),
        (spec(offset=40, byte_size=61), "byte_size: got 61; must be at most 60: the object has 100 bytes"),
        (spec(offset=200, byte_size=1), "byte_size: got 1; must be at most 0: the object has 100 bytes"),
        (spec(offset=2**63), f"offset: got {2**63}; must be between 0 and"),
        (spec(byte_size=2**64 - 1), f"byte_size: got {2**64 - 1}; must be between 1 and"),
        (spec(offset=2**63 - 1, byte_size=2**63 - 1), "byte_size: got 9223372036854775807; must be at most 0"),
    ],
)
def test_regions_lie_within_their_object(table: RegionTable, folder: Path, wrong: RegionSpec, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        table.register(wrong)
    assert str(caught.value).startswith(message)
    del caught
    assert table.status() == []
    assert num_open(folder / "box") == 0


def test_tensors_are_read_and_written_in_their_place(table: RegionTable, folder: Path) -> None:
    table.register(spec(offset=10, byte_size=50))
    assert span(table, 4, 6).read() == CONTENTS[16:20]
    assert span(table, 50).read() == CONTENTS[10:60]
    assert span(table, 0, 50).read() == b""
    table.output_span("label", place(byte_size=8, offset=42)).write(b"\xff" * 7)
    assert (folder / "box").read_bytes() == CONTENTS[:52] + b"\xff" * 7 + CONTENTS[59:]


@pytest.mark.parametrize(
    ("offset", "byte_size", "message"),
    [
        (
            0,
            51,
            "images.shared_memory_byte_size: got 51; must be between 0 and 50: region 'in' has 50 bytes, from 0 on",
        ),
        (45, 6, "images.shared_memory_byte_size: got 6; must be between 0 and 5: region 'in' has 50 bytes, from 45 on"),
        (51, 0, "images.shared_memory_offset: got 51; must be between 0 and 50: region 'in' has 50 bytes"),
        (-1, 5, "images.shared_memory_offset: got -1; must be between 0 and 50"),
        (0, -1, "images.shared_memory_byte_size: got -1; must be between 0 and 50"),
        (2**63 - 1, 2**63 - 1, "images.shared_memory_offset: got 9223372036854775807; must be between 0 and 50"),
        (-(2**63), 2**63 - 1, "images.shared_memory_offset: got -9223372036854775808; must be between 0 and 50"),
    ],
)
def test_tensors_lie_within_their_region(table: RegionTable, offset: int, byte_size: int, message: str) -> None:
    table.register(spec(offset=10, byte_size=50))
    with pytest.raises(InvalidRequestError) as caught:
        span(table, byte_size, offset)
    assert str(caught.value).startswith(message)


def test_inputs_have_a_limit_of_bytes_and_outputs_their_room(table: RegionTable) -> None:
    table.register(spec())
    with pytest.raises(
        InvalidRequestError, match=r"^images.shared_memory_byte_size: got 65; must be at most 64, the mo"
    ):
        span(table, 65)
    output = table.output_span("label", place(byte_size=65))
    output.check_room(65)
    with pytest.raises(InvalidRequestError, match=r"^label.shared_memory_byte_size: got 65; must be at least 66$"):
        output.check_room(66)


def flawed(name: str, choice: str, value: object) -> Mapping[str, InferParameter]:
    parameters = place()
    setattr(parameters[name], choice, value)
    return parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (place(region=None), "images.shared_memory_region: got nothing; must be a text, the name of a registered"),
        (place(byte_size=None), "images.shared_memory_byte_size: got nothing; must be an integer, a number of bytes"),
        (
            flawed("shared_memory_region", "int64_param", 3),
            "images.shared_memory_region: got another type; must be a text",
        ),
        (
            flawed("shared_memory_offset", "bool_param", True),
            "images.shared_memory_offset: got another type; must be an integer",
        ),
        (
            flawed("shared_memory_byte_size", "double_param", 3.0),
            "images.shared_memory_byte_size: got another type; must be an integer",
        ),
    ],
)
def test_parameters_are_read_strictly(
    table: RegionTable, parameters: Mapping[str, InferParameter], message: str
) -> None:
    table.register(spec())
    with pytest.raises(InvalidRequestError) as caught:
        table.input_span("images", parameters)
    assert str(caught.value).startswith(message)


def test_unsigned_integers_are_taken_too(table: RegionTable) -> None:
    table.register(spec())
    parameters = place()
    parameters["shared_memory_byte_size"].uint64_param = 3
    assert table.input_span("images", parameters).read() == CONTENTS[:3]


def test_an_unknown_region_is_named(table: RegionTable) -> None:
    table.register(spec("out"))
    with pytest.raises(NotFoundError, match=r"^shared memory region 'in' not found; known: out$"):
        span(table)


def test_an_object_cut_short_is_refused_and_never_made_longer(table: RegionTable, folder: Path) -> None:
    table.register(spec())
    where = span(table, 10, 40)
    os.truncate(folder / "box", 45)
    fault = r"^images.shared_memory_region: got 'in', an object cut short to 45 bytes; must be an object of at least 50"
    with pytest.raises(InvalidRequestError, match=fault):
        where.read()
    with pytest.raises(InvalidRequestError, match=fault):
        where.write(bytes(10))
    assert (folder / "box").read_bytes() == CONTENTS[:45]


def test_a_region_in_use_outlives_its_registration(table: RegionTable, folder: Path) -> None:
    table.register(spec())
    where = span(table, 5)
    table.unregister("in")
    (folder / "box").rename(folder / "kept")
    (folder / "box").write_bytes(bytes(100))
    table.register(spec())
    assert where.read() == CONTENTS[:5]
    assert span(table, 5).read() == bytes(5)
    assert num_open(folder / "kept") == 1
    del where
    assert num_open(folder / "kept") == 0


def test_an_object_that_may_only_be_read_takes_no_outputs(
    table: RegionTable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By permissions it can't be tried: root has them all.
    def forbid_writing(path: Path, flags: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, flags)

    real_open = os.open
    monkeypatch.setattr("cascade_serve.rpc.shared_memory.os.open", forbid_writing)
    table.register(spec())
    where = span(table)
    assert where.read() == CONTENTS[:10]
    with pytest.raises(InvalidRequestError, match=r"got 'in', an object that the server may only read; must be"):
        where.check_room(10)
    with pytest.raises(InvalidRequestError, match=r"got 'in', an object that can't be written \(Bad file descriptor\)"):
        where.write(bytes(10))
    assert (folder / "box").read_bytes() == CONTENTS


def test_without_a_descriptor_left_the_server_is_full(table: RegionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(path: Path, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("cascade_serve.rpc.shared_memory.os.open", exhaust)
    with pytest.raises(OverloadedError, match=r"^the server has no file descriptor left for a shared memory object$"):
        table.register(spec())


def test_a_system_without_shared_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shared memory: got a system without the folder .*; must be Linux"):
        RegionTable(max_input_bytes=1, folder=tmp_path / "none")
