"""Members trained side by side on a Ray cluster; imports ray only when it is used."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_zoo.errors import ZooError
from training.data.images import LabelledImages
from training.errors import ClusterError, TrainingError
from training.member_job import MemberFacts, MemberJob, train_into
from training.policy_search.config import RayConfig
from training.policy_search.ray_cluster import device_there, ray_cluster

LOCAL = "local"
"""Address of a cluster of our own on this machine."""


def ray_config(address: str, config: RayConfig | None = None) -> RayConfig:
    """Give Ray's settings for an address: ``local`` starts a cluster on this machine, all else is ``ray.init``'s."""
    return replace(config or RayConfig(), address=None if address == LOCAL else address)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FinishedJob:
    """What came back from the cluster.

    Attributes:
        place: of the job, in the order given.
        facts: of the member.
        files: contents by path below the member's folder.
    """

    place: int
    facts: MemberFacts
    files: Mapping[str, bytes]


def train_on_cluster(
    jobs: Sequence[MemberJob],
    rows: LabelledImages,
    address: str,
    *,
    validation: LabelledImages | None = None,
    scratch: Sequence[Path] | None = None,
    max_retries: int = 3,
) -> Iterator[FinishedJob]:
    """Train members side by side, as many as the cluster has room for.

    The images travel once to each machine, weights and logs come back: no folder need be shared. A job whose process
    dies is begun again elsewhere; on a cluster of our own, where all processes see the same files, it goes on.

    Args:
        jobs: one a member.
        rows: what all of them train on.
        address: as ``ray.init`` takes it; ``local`` starts a cluster on this machine, and ends it.
        validation: unseen images, for jobs that look at some.
        scratch: folder of each job's checkpoints, for ``local`` alone.
        max_retries: of each job.

    Yields:
        each job as it ends.

    Raises:
        ClusterError: a job failed, or its process died too often.
        PolicySearchError: ray is absent, or the cluster can't be reached.
    """
    with ray_cluster(ray_config(address)):
        import ray

        shared, unseen = ray.put(rows), ray.put(validation)
        folders = [str(path.absolute()) for path in scratch] if scratch and address == LOCAL else [None] * len(jobs)
        running = {
            ray.remote(_train_remotely)
            .options(max_retries=max_retries, num_cpus=job.threads or 1, num_gpus=_gpus(job))
            .remote(replace(job, device=device_there(job.device)), shared, unseen, folders[place]): place
            for place, job in enumerate(jobs)
        }
        while running:
            (reference,), _ = ray.wait(list(running))
            place = running.pop(reference)
            name = jobs[place].config.name
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                raise ClusterError(f"member {name!r}: {error}") from error
            if isinstance(outcome, str):
                raise ClusterError(f"member {name!r}: {outcome}")
            yield FinishedJob(place=place, facts=outcome[0], files=outcome[1])


def _gpus(job: MemberJob) -> int:
    return int(job.device.startswith("cuda"))


def _train_remotely(
    job: MemberJob, rows: LabelledImages, validation: LabelledImages | None, scratch: str | None
) -> tuple[MemberFacts, dict[str, bytes]] | str:
    """Give a member's facts and files, or, as errors don't all travel, what went wrong in words."""
    with tempfile.TemporaryDirectory(prefix="member-") as name:
        folder = Path(name, "outputs")
        folder.mkdir()
        try:
            facts = train_into(job, rows, folder, Path(scratch or Path(name, "scratch")), validation=validation)
        except (TrainingError, ZooError) as error:
            return str(error)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return facts, files
