"""Several engines as one: requests go where the fewest rows are, and all of them drain and close."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from table_committee import Bench
from torch_committee import make_torch_bench

from cascade_serve.core.request import Request
from cascade_serve.engine.cuda.fleet import EngineFleet
from cascade_serve.errors import OverloadedError, UnavailableError


class House:
    """Two engines, whose members wait until told."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.benches: list[Bench] = [
            make_torch_bench("cpu", before_run=self.wait, max_batch_size=8, max_queue_rows=16) for _ in range(2)
        ]
        self.fleet = EngineFleet([bench.engine for bench in self.benches])

    def wait(self, _member: int, _rows: int) -> None:
        assert self.opened.wait(30)

    @property
    def loads(self) -> list[int]:
        return [bench.engine.rows_in_flight for bench in self.benches]


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.opened.set()
    made.fleet.close()


def rows(*values: int) -> Request:
    return Request(images_BHWC=np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1))


def test_a_request_goes_to_the_least_loaded_device_and_equals_take_turns(house: House) -> None:
    tickets = [house.fleet.admit(rows(1)), house.fleet.admit(rows(2))]
    assert house.loads == [1, 1]
    tickets.append(house.fleet.admit(rows(*range(9))))
    assert sorted(house.loads) == [1, 10]
    tickets += [house.fleet.admit(rows(value)) for value in range(3)]
    assert sorted(house.loads) == [4, 10]
    assert house.fleet.rows_in_flight == 14
    house.opened.set()
    replies = [ticket.result() for ticket in tickets]
    assert [len(reply.label_B) for reply in replies] == [1, 1, 9, 1, 1, 1]
    assert house.fleet.rows_in_flight == 0


def test_a_full_fleet_refuses(house: House) -> None:
    tickets = [house.fleet.admit(rows(*range(16))) for _ in range(2)]
    with pytest.raises(OverloadedError, match="1 rows: only 0 of 16 slots"):
        house.fleet.admit(rows(1))
    house.opened.set()
    assert all(len(ticket.result().label_B) == 16 for ticket in tickets)


def test_a_device_at_fault_is_passed_over_as_long_as_another_is_well(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.opened.set()
    lost, well = (bench.engine for bench in house.benches)
    faults = {lost: "lost"}
    monkeypatch.setattr(type(lost), "fault", property(lambda engine: faults.get(engine, "")))
    for value in range(4):
        house.fleet.admit(rows(value)).result()
    assert [engine.statistics()["small"].rows for engine in (lost, well)] == [0, 4]
    assert house.fleet.fault == ""
    faults[well] = "lost too"
    assert house.fleet.fault == "lost"
    # Whoever asks is told why, and an answer would end the fault.
    for value in range(4):
        house.fleet.admit(rows(value)).result()
    assert [engine.statistics()["small"].rows for engine in (lost, well)] == [2, 6]


def test_statistics_are_summed(house: House) -> None:
    house.opened.set()
    tickets = [house.fleet.admit(rows(*range(5))) for _ in range(4)]
    for ticket in tickets:
        ticket.result()
    parts = [bench.engine.statistics()["small"] for bench in house.benches]
    whole = house.fleet.statistics()["small"]
    assert whole.rows == 20 == sum(part.rows for part in parts)
    assert all(part.rows for part in parts)
    assert whole.batches == sum(part.batches for part in parts) == sum(runs for runs, _ in whole.batch_sizes.values())
    assert whole.compute_s == pytest.approx(sum(part.compute_s for part in parts))


def test_draining_stops_all_of_them(house: House) -> None:
    house.fleet.admit(rows(1))
    assert not house.fleet.drain(0.01)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            house.fleet.admit(rows(1))
