"""``serve --processes``: several processes that one port, one set of metrics and one word make one server."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from onnx_bundle import write_linear_bundle
from process_house import IMAGE_HWC, WAIT_S, ServedHouse, is_running, num_sockets, wait_for

from cascade_serve import Client
from cascade_serve.rpc.remote import RemoteExistsError, RemoteNotFoundError, RemoteUnavailableError
from cascade_serve.rpc.shared_region import SharedRegion

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")

# One in 2^23 times all connections are with the same process.
NUM_CONNECTIONS = 24
Serve = Callable[..., ServedHouse]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_linear_bundle(tmp_path / "repository" / "linear" / "1", tmp_path / "one")
    return tmp_path / "repository"


@pytest.fixture
def serve() -> Iterator[Serve]:
    houses: list[ServedHouse] = []

    def start(*arguments: object) -> ServedHouse:
        houses.append(ServedHouse(*arguments, "--processes", 2, "--watch-interval-s", 0))
        return houses[-1]

    yield start
    for house in houses:
        house.close()


@pytest.fixture(scope="module")
def shared_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    for name in ("linear", "other"):
        write_linear_bundle(folder / "repository" / name / "1", folder / name)
    return folder / "repository"


@pytest.fixture(scope="module")
def house(shared_repository: Path) -> Iterator[ServedHouse]:
    """A server that tests share; the last of them kills one of its processes."""
    options = ("--processes", 2, "--watch-interval-s", 0, "--allow-repository-control", "--allow-shared-memory")
    house = ServedHouse(shared_repository, *options)
    house.wait_until_ready()
    yield house
    house.close()


@pytest.fixture(scope="module")
def clients(house: ServedHouse) -> list[Client]:
    """Connections, some with either process."""
    before = [num_sockets(house.pid(slot)) for slot in (1, 2)]
    made = house.clients(NUM_CONNECTIONS)
    assert all(client.is_ready() for client in made)
    gained = [num_sockets(house.pid(slot)) - sockets for slot, sockets in zip((1, 2), before, strict=True)]
    assert sum(gained) == NUM_CONNECTIONS
    assert min(gained) > 0
    return made


def rows_of(client: Client, model: str) -> int:
    (statistics,) = client.statistics(model)
    return statistics.rows


def test_metrics_and_statistics_of_any_connection_count_all_replies(house: ServedHouse, clients: list[Client]) -> None:
    flops = 0
    for number, client in enumerate(clients, start=1):
        for _ in range(2):
            prediction = client.infer(IMAGE_HWC, model="other")
            assert prediction.flops is not None
            flops += int(prediction.flops.sum())
        assert rows_of(client, "other") == 2 * number
    assert {rows_of(client, "other") for client in clients} == {2 * len(clients)}
    metrics = house.metrics()
    labels = '{cascade="other",outcome="OK",policy="default"}'
    assert metrics[f"cascade_request_duration_seconds_count{labels}"] == 2 * len(clients)
    assert metrics['cascade_flops_total{cascade="other",policy="default"}'] == flops
    assert metrics['cascade_bundle_version{cascade="other"}'] == 1
    assert metrics["cascade_processes"] == 2
    # Each member's statistics too, and all that there is.
    assert {one.name for one in clients[0].statistics()} >= {"linear", "linear.small", "other", "other.large"}
    assert {rows_of(client, "other.small") for client in clients} == {2 * len(clients)}


def test_what_one_connection_unloads_and_loads_all_do(clients: list[Client]) -> None:
    clients[0].unload("other")
    for client in clients:
        assert not client.is_ready("other")
        with pytest.raises(RemoteNotFoundError, match="cascade 'other' not found; known: linear"):
            client.infer(IMAGE_HWC, model="other")
    assert {(one.name, one.state) for one in clients[-1].index()} == {("linear", "READY"), ("other", "UNAVAILABLE")}
    assert clients[-1].is_ready()
    clients[-1].load("other")
    for client in clients:
        assert client.is_ready("other")
        client.infer(IMAGE_HWC, model="other")


def test_errors_of_changes_come_back_as_from_one_process(clients: list[Client]) -> None:
    with pytest.raises(RemoteNotFoundError, match="cascade 'birds' not found; known: linear, other"):
        clients[0].load("birds")
    with pytest.raises(RemoteNotFoundError, match="cascade 'birds' not found; known: linear, other"):
        clients[0].unload("birds")


def test_shared_memory_that_one_connection_registers_all_know(clients: list[Client]) -> None:
    with SharedRegion(4096) as region:
        clients[0].register_region(region.spec)
        assert {client.regions() for client in clients} == {(region.spec,)}
        with pytest.raises(RemoteExistsError):
            clients[-1].register_region(region.spec)
        assert {client.regions() for client in clients} == {(region.spec,)}
        clients[-1].unregister_region()
        assert {client.regions() for client in clients} == {()}


def test_sighup_swaps_all(house: ServedHouse, clients: list[Client], shared_repository: Path, tmp_path: Path) -> None:
    write_linear_bundle(shared_repository / "linear" / "2", tmp_path / "two", seed=1)
    house.process.send_signal(signal.SIGHUP)
    wait_for(lambda: {client.infer(IMAGE_HWC, model="linear").model_version for client in clients} == {"2"})
    for client in clients:
        client.wait_until_serving("linear", timeout_s=WAIT_S)
        entries = {entry.version: entry.state for entry in client.index() if entry.name == "linear"}
        assert entries == {"1": "UNAVAILABLE", "2": "READY"}
    assert house.metrics()['cascade_bundle_version{cascade="linear"}'] == 2


def test_a_killed_process_comes_back_and_no_sum_falls(house: ServedHouse, clients: list[Client]) -> None:
    clients[0].unload("other")
    for client in clients:
        client.infer(IMAGE_HWC, model="linear")
    requests = house.metric("cascade_request_duration_seconds_count")
    rows = rows_of(clients[0], "linear")
    with SharedRegion(4096) as region, ExitStack() as stack:
        clients[0].register_region(region.spec)
        killed = house.pid(1)
        os.kill(killed, signal.SIGKILL)

        wait_for(lambda: house.metric("cascade_process_restarts_total") == 1)
        # The new process was told of the other region at its start; of this one it hears when it is up.
        late = stack.enter_context(SharedRegion(4096))
        house.clients(1)[0].register_region(late.spec)

        def is_whole_again() -> bool:
            assert house.metric("cascade_request_duration_seconds_count") >= requests
            return house.metric("cascade_processes") == 2

        wait_for(is_whole_again)
        assert f"front-end process 1 (pid {killed}) ended (SIGKILL); another takes its place" in house.log
        wait_for(lambda: house.pid(1) != killed)
        fresh = house.clients(NUM_CONNECTIONS)
        before = num_sockets(house.pid(1))
        for client in fresh:
            assert client.is_ready()
            client.infer(IMAGE_HWC, model="linear")
            # What was changed by callers holds in the new process too.
            with pytest.raises(RemoteNotFoundError, match="cascade 'other' not found"):
                client.infer(IMAGE_HWC, model="other")
            assert set(client.regions()) == {region.spec, late.spec}
        assert num_sockets(house.pid(1)) > before
        assert {rows_of(client, "linear") for client in fresh} == {rows + len(fresh)}
        clients[1].unregister_region()
    assert house.metric("cascade_request_duration_seconds_count") >= requests + len(fresh)


@pytest.mark.parametrize(("number", "returncode"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_requests_inside_are_answered_when_the_server_stops_or_its_parent_dies(
    serve: Serve, repository: Path, number: signal.Signals, returncode: int
) -> None:
    # The rows wait for a full batch, which never comes.
    house = serve(repository, "--max-queue-delay-s", 5)
    house.wait_until_ready()
    pids = [house.pid(slot) for slot in (1, 2)]
    clients = house.clients(NUM_CONNECTIONS)
    with ThreadPoolExecutor(len(clients)) as threads:
        answers = [threads.submit(client.infer, IMAGE_HWC, model="linear") for client in clients]
        wait_for(lambda: house.metrics()['cascade_rows_in_flight{cascade="linear",state="waiting"}'] == len(clients))
        house.process.send_signal(number)
        versions = {answer.result(WAIT_S).model_version for answer in answers}
    assert versions == {"1"}
    assert house.end() == ""
    assert house.process.returncode == returncode, house.log
    wait_for(lambda: not any(is_running(pid) for pid in pids))
    assert "Traceback" not in house.log
    with pytest.raises(RemoteUnavailableError):
        house.clients(1)[0].infer(IMAGE_HWC, model="linear", timeout_s=1)


def test_a_process_that_hangs_is_killed_and_told_of(serve: Serve, repository: Path) -> None:
    house = serve(repository, "--drain-timeout-s", 0)
    house.wait_until_ready()
    os.kill(house.pid(2), signal.SIGSTOP)
    house.process.terminate()
    house.end()
    assert house.process.returncode == 1
    assert re.search(rf"front-end process 2 \(pid {house.pid(2)}\) did not stop in 5 s, and was killed", house.log)
    assert not is_running(house.pid(2))


def test_ctrl_c_twice_ends_all_at_once(serve: Serve, repository: Path) -> None:
    house = serve(repository, "--stop-notice-s", 600)
    house.wait_until_ready()
    pids = [house.pid(slot) for slot in (1, 2)]
    house.process.send_signal(signal.SIGINT)
    wait_for(lambda: house.log.count("stopping: 0 requests in flight") == 2)
    house.process.send_signal(signal.SIGINT)
    house.end()
    assert house.process.returncode == -signal.SIGINT
    wait_for(lambda: not any(is_running(pid) for pid in pids))


def test_a_signal_ends_the_loading(serve: Serve, repository: Path) -> None:
    plan = repository / "linear" / "1" / "plan.json"
    plan.unlink()
    os.mkfifo(plan)
    house = serve(repository)
    writer = -1

    def is_being_read() -> bool:
        nonlocal writer
        try:
            writer = os.open(plan, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    wait_for(is_being_read)
    house.process.terminate()
    assert house.end() == ""
    os.close(writer)
    assert house.process.returncode == 0, house.log
    assert "Traceback" not in house.log


def test_what_no_process_can_load_is_told_as_by_one(serve: Serve, repository: Path) -> None:
    (repository / "linear" / "1" / "members" / "small" / "model.onnx").write_bytes(b"broken")
    house = serve(repository)
    assert house.end() == ""
    assert house.process.returncode == 2
    assert house.log.count("error:") == 1
    assert "sha256" in house.log
    assert "Traceback" not in house.log
