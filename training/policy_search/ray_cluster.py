"""A Ray cluster to search on: one that runs already, or one of our own for as long as the search takes."""

import logging
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from training.errors import PolicySearchError
from training.policy_search.config import RayConfig

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # NOTE: read when ray is first imported. Without it, ray takes the machine's own address for the loopback one.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # What a trial does is written by one logger, chosen by the backend.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The new output ignores that it is to be quiet.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Paths of data sets stay valid in trials.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_START_WAIT = "RAY_gcs_server_port_wait_time_s"
_START_WAIT_S = 120
"""Ray's own 30 seconds may not do on a machine that is busy."""


def device_there(device: str) -> str:
    """Name a GPU for a process of Ray's that holds one: it is shown no other, so there its own has number 0."""
    return "cuda" if device.startswith("cuda") else device


@contextmanager
def ray_cluster(config: RayConfig) -> Iterator[None]:
    """Attach to a cluster, or start one for loopback only and end all its processes and files afterwards.

    Python's global generator, which Ray draws from, is given back as it was.

    A connection that this process has already is used, and left as it is. NOTE: where ray was imported before, by
    others, a cluster that is started listens at the machine's own address too.

    Args:
        config: which cluster.

    Raises:
        PolicySearchError: ray is not installed, or the cluster can't be reached or started.
    """
    with _environment(_QUIET), _quiet_logger(), _borrowed_random():
        try:
            # Tune has needs of its own, which ray alone does not bring along.
            import ray
            import ray.tune
        except ImportError as error:
            raise PolicySearchError(
                f"backend: got 'ray', which is not installed whole ({error}); install cascade-serve[ray]"
            ) from error

        if ray.is_initialized():
            yield
        else:
            with _connection(config):
                yield


@contextmanager
def _connection(config: RayConfig) -> Iterator[None]:
    import ray

    # Short: the paths of its sockets may have 107 bytes.
    folder = tempfile.mkdtemp(prefix="pba-") if config.address is None else None
    try:
        with _environment({} if folder is None else _needs_of_a_start()):
            _connect(config, folder)
            try:
                yield
            finally:
                ray.shutdown()
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _needs_of_a_start() -> dict[str, str]:
    """Give the environment of processes that we start: they must find the modules that this one finds."""
    # Such as a caller's own ops.
    modules = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return modules | {_START_WAIT: os.environ.get(_START_WAIT, str(_START_WAIT_S))}


def _connect(config: RayConfig, folder: str | None) -> None:
    import ray

    try:
        if folder is None:
            ray.init(address=config.address, log_to_driver=False, configure_logging=False)
        else:
            ray.init(
                # A name of its own: without it, a cluster named by the environment would be taken.
                address="local",
                num_cpus=config.num_cpus,
                include_dashboard=False,
                object_store_memory=config.object_store_bytes,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
    except Exception as error:
        # Of any class: a start that takes longer than Ray waits ends in an Exception itself.
        which = "a cluster on this machine" if folder is not None else f"the cluster at {config.address!r}"
        raise PolicySearchError(f"ray: {which} can't be used: {error}") from error


@contextmanager
def _quiet_logger() -> Iterator[None]:
    """Keep Tune from telling that its own result files, which nobody asked for, are not there."""
    logger = logging.getLogger("ray.tune.analysis.experiment_analysis")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _borrowed_random() -> Iterator[None]:
    before = random.getstate()
    try:
        yield
    finally:
        random.setstate(before)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
