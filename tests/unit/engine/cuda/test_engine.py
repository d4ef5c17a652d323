"""What observers hear is the same from every engine; and a device is freed after its last upload."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from table_committee import Bench, MakeBench
from torch_committee import make_torch_bench

from cascade_serve.core.arrays import ImageArray
from cascade_serve.core.request import Mode, Request, Terms
from cascade_serve.engine.cuda.lane import EagerExecutor
from cascade_serve.errors import MemberError, UnavailableError


def ask(bench: Bench, *values: int, **terms: object) -> None:
    images_BHWC = np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1)
    bench.engine.admit(Request(images_BHWC=images_BHWC, terms=Terms(**terms))).result()  # type: ignore[arg-type]


def test_an_ensembles_rows_come_to_a_gate_after_the_last_member_alone(make_pure_bench: MakeBench) -> None:
    bench = make_pure_bench()
    ask(bench, 1, 2, mode=Mode.ENSEMBLE)
    assert [stage for stage, _ in bench.watcher.gated] == [2, 2]


def test_a_cascades_rows_come_to_every_gate_on_their_way(make_pure_bench: MakeBench) -> None:
    bench = make_pure_bench()
    ask(bench, 1, confidence_threshold=1.0)
    assert [stage for stage, _ in bench.watcher.gated] == [0, 1, 2]


def test_a_device_that_takes_no_image_is_at_fault_until_it_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_executor: EagerExecutor, _slots: Sequence[int], _images_BHWC: ImageArray) -> None:
        raise MemberError("the device is lost")

    bench = make_torch_bench("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(EagerExecutor, "upload", refuse)
        with pytest.raises(MemberError, match="the device is lost"):
            ask(bench, 1)
    assert bench.engine.fault == "no image can be uploaded: the device is lost"
    ask(bench, 1)
    assert bench.engine.fault == ""
    bench.engine.close()


def test_a_device_is_freed_after_the_uploads_that_were_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on, log = threading.Event(), threading.Event(), []

    def upload(_executor: EagerExecutor, _slots: Sequence[int], _images_BHWC: ImageArray) -> None:
        began.set()
        assert goes_on.wait(30)
        log.append("uploaded")

    monkeypatch.setattr(EagerExecutor, "upload", upload)
    monkeypatch.setattr(EagerExecutor, "close", lambda _executor: log.append("freed"))
    engine = make_torch_bench("cpu").engine
    tickets = []
    images_BHWC = np.zeros((1, 1, 1, 1), dtype=np.uint8)
    caller = threading.Thread(target=lambda: tickets.append(engine.admit(Request(images_BHWC=images_BHWC))))
    caller.start()
    assert began.wait(30)
    closer = threading.Thread(target=engine.close)
    closer.start()
    # Waits for nothing but the upload; an engine that didn't would long be closed.
    closer.join(0.3)
    assert closer.is_alive()
    assert log == []
    goes_on.set()
    for thread in (caller, closer):
        thread.join(30)
    assert log == ["uploaded", "freed"]
    with pytest.raises(UnavailableError, match="was stopped"):
        tickets[0].result()
