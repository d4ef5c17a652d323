import json
from pathlib import Path

import pytest

from cascade_serve.engine.onnx import Device
from cascade_serve.engine.opening import OpeningConfig
from cascade_serve.engine.protocol import EngineConfig
from cascade_serve.processes.child import _changes
from cascade_serve.processes.messages import Change, Memory, Settings, pack_memory, unpack_memory
from cascade_serve.rpc.server import ServerConfig, TlsConfig
from cascade_serve.rpc.shared_memory import RegionSpec
from cascade_serve.serving import ServeConfig
from model_zoo.preprocess import DecodeLimits

REGION = RegionSpec(name="in", key="/images", offset=64, byte_size=4096)
OTHER = RegionSpec(name="out", key="answers", byte_size=10)
MEMORY = Memory(versions={"a": 3}, unloaded=frozenset({"b"}), regions=(REGION,))
CONFIG = ServeConfig(
    repository=Path("/models/ä"),
    server=ServerConfig(
        host="::1",
        port=5,
        decode_limits=DecodeLimits(max_pixels=7),
        max_connection_age_s=2.5,
        tls=TlsConfig(certificate=Path("a.pem"), key=Path("b.pem")),
    ),
    opening=OpeningConfig(engine=EngineConfig(workers=3, max_queue_delay_s=0.25), device=Device.CUDA, device_ids=(1,)),
    processes=4,
    drain_timeout_s=0.1,
)


@pytest.mark.parametrize("memory", [None, MEMORY])
def test_settings_come_back_as_they_went(memory: Memory | None) -> None:
    settings = Settings(slot=2, config=CONFIG, log_level="INFO", memory=memory)
    assert Settings.unpack(json.loads(json.dumps(settings.pack()))) == settings


def test_changes_and_memories_come_back_as_they_went() -> None:
    for change in (Change(verb="load", name="a"), Change(verb="register", name="in", region=REGION)):
        assert Change.unpack(json.loads(json.dumps(change.pack()))) == change
    assert unpack_memory(json.loads(json.dumps(pack_memory(MEMORY)))) == MEMORY


def test_only_what_differs_is_made_up_for() -> None:
    assert list(_changes(MEMORY, MEMORY)) == []
    now = Memory(versions={"a": 4, "b": 1}, unloaded=frozenset({"c"}), regions=(OTHER,))
    changes = [(change.verb, change.name) for change in _changes(MEMORY, now)]
    assert sorted(changes) == [
        ("load", "a"),
        ("load", "b"),
        ("register", "out"),
        ("unload", "c"),
        ("unregister", "in"),
    ]
    # What was registered must go before its name is taken anew.
    assert changes.index(("unregister", "in")) < changes.index(("register", "out"))


def test_the_number_of_processes_is_checked() -> None:
    for processes in (0, 257):
        with pytest.raises(ValueError, match=f"^processes: got {processes}; must be between 1 and 256$"):
            ServeConfig(repository=Path(), processes=processes)
