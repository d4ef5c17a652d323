"""What a job is told before it travels to a Ray cluster; see ``integration/test_train_cluster.py`` for the cluster."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from labelled_images import make_data
from tiny_recipe import tiny_plain

from training import cluster
from training.inputs import Normalisation
from training.member_job import MemberJob


class _ReachedError(Exception):
    pass


@pytest.mark.parametrize(("device", "there", "gpus"), [("cuda:3", "cuda", 1), ("cuda", "cuda", 1), ("cpu", "cpu", 0)])
def test_a_member_finds_its_gpu_where_ray_shows_it(
    device: str, there: str, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hides all GPUs from a process but those that it holds: with one of eight, there is none of number 3."""
    seen: list[tuple[str, object]] = []

    def options(**given: object) -> SimpleNamespace:
        def remote(job: MemberJob, *_: object) -> None:
            seen.append((job.device, given["num_gpus"]))
            raise _ReachedError

        return SimpleNamespace(remote=remote)

    ray = SimpleNamespace(put=lambda rows: rows, remote=lambda _function: SimpleNamespace(options=options))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster, "ray_cluster", lambda _config: nullcontext())
    job = MemberJob(config=tiny_plain().members[0], normalisation=Normalisation(), device=device)
    with pytest.raises(_ReachedError):
        list(cluster.train_on_cluster([job], make_data([0, 1]), cluster.LOCAL))
    assert seen == [(there, gpus)]
