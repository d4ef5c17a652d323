"""Population based augmentation beside its controls: a search, then training on a reduced set under each policy.

Ho et al. (arXiv 1905.05393) find a schedule at a thousandth of AutoAugment's cost (5,000 GPU-hours) that is as good.
RandAugment and TrivialAugment, which need no search, are known to come level. Each seed searches anew, on images that
are neither its test nor its policy validation, with a network smaller than the one that is trained under the schedule.

    python -m benchmarks.training.augmentation [--task digits|cifar10-jpeg] [--population 16] [--search-epochs 60]
        [--schedule FILE]

``--schedule`` takes a schedule found elsewhere, such as on another data set, in place of a search.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.training.experiment import EVIDENCE, OPEN, Arm, Experiment, Figures, arguments, run_experiment
from benchmarks.training.tasks import Setting, Task, add_setting, read_setting, train_and_judge, use_one_thread
from training.augment.config import AugmentConfig, PolicyKind
from training.augment.policy import PolicySchedule
from training.augment.schedule_files import read_policy_schedule, write_policy_schedule
from training.data.images import LabelledImages
from training.data.splits import SplitConfig, split
from training.policy_search.config import PolicySearchConfig, Strategy
from training.policy_search.search import SearchResult, search_policy

_AUTOAUGMENT_GPU_SECONDS = 5000 * 3600


@dataclass(frozen=True, kw_only=True, eq=False)
class _Study:
    setting: Setting
    population: int
    search_epochs: int
    schedule: Path | None
    out: Path

    @cached_property
    def plain(self) -> AugmentConfig:
        """Crop, flip and Cutout as the setting has them: what every arm does after its policy."""
        return self.setting.model.loop.augment

    def run(self, augment: AugmentConfig, seed: int) -> Figures:
        """Train under a policy that needs no search."""
        task = self.setting.task(seed)
        _, figures = train_and_judge(self.setting, task, replace(self.setting.model.loop, augment=augment, seed=seed))
        return figures

    def run_found(self, strategy: Strategy, kind: PolicyKind, seed: int) -> Figures:
        """Search, and train under what was found."""
        if self.schedule is not None:
            given = read_policy_schedule(self.schedule)
            return self.run(replace(self.plain, policy=kind, policy_schedule=given), seed)
        found = _search(self, strategy, seed)
        augment = replace(self.plain, policy=kind, policy_schedule=found.schedule)
        figures = self.run(augment, seed)
        return {
            **figures,
            "search, trial s": found.trial_seconds,
            "search / training": found.trial_seconds / figures["wall s"],
            "search / AutoAugment": found.trial_seconds / _AUTOAUGMENT_GPU_SECONDS,
        }

    def search(self, strategy: Strategy, seed: int) -> SearchResult:
        """Search on the training images alone, a sixth of them to judge by."""
        task = self.setting.task(seed)
        train, validation = _halves(task, seed)
        proxy = self.setting.proxy
        loop = replace(proxy.loop, epochs=self.search_epochs, augment=self.plain)
        config = PolicySearchConfig(
            population=self.population,
            train_images=min(4000, len(train)),
            strategy=strategy,
            architecture=proxy.architecture,
            arguments=proxy.arguments,
            loop=loop,
            seed=seed,
        )
        with TemporaryDirectory() as folder:
            return search_policy(
                config, train, validation, task.normalisation, Path(folder), device=self.setting.device
            )


@lru_cache(maxsize=4)
def _search(study: _Study, strategy: Strategy, seed: int) -> SearchResult:
    found = study.search(strategy, seed)
    name = f"schedule_{study.setting.name}_{strategy.value}_{seed}.json"
    _keep(found.schedule, study.out / name)
    return found


def _keep(schedule: PolicySchedule, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_policy_schedule(schedule, path)


def _halves(task: Task, seed: int) -> tuple[LabelledImages, LabelledImages]:
    size = max(50, len(task.train) // 6)
    parts = split(task.train, SplitConfig(policy_validation=size, calibration=1, test=1, seed=seed))
    return parts["train"], parts["policy_validation"]


def make_experiment(study: _Study) -> Experiment:
    """Give one arm a policy."""
    plain, setting = study.plain, study.setting
    arms = [Arm(name="crop, flip and Cutout only", run=partial(study.run, plain))]
    arms += [
        Arm(name="PBA", run=partial(study.run_found, Strategy.PBA, PolicyKind.SCHEDULE)),
        Arm(name="PBA, flattened", run=partial(study.run_found, Strategy.PBA, PolicyKind.FLATTENED)),
    ]
    if study.schedule is None:
        arms.append(
            Arm(name="random search", run=partial(study.run_found, Strategy.RANDOM_CONSTANT, PolicyKind.SCHEDULE))
        )
    controls = {
        "RandAugment": PolicyKind.RANDAUGMENT,
        "TrivialAugment": PolicyKind.TRIVIALAUGMENT,
        "AutoAugment": PolicyKind.AUTOAUGMENT,
    }
    arms += [Arm(name=name, run=partial(study.run, replace(plain, policy=kind))) for name, kind in controls.items()]
    source = "" if study.schedule is None else f"_from_{study.schedule.stem}"
    return Experiment(
        name=f"augmentation_{setting.name}{source}",
        title=f"Augmentation policies on {setting.name}{source.replace('_', ' ')}",
        arms=arms,
        baseline=arms[0].name,
        ratios=("process s",),
        settings={**setting.describe(), **_origin(study)},
        standing=EVIDENCE if setting.device != "cpu" and setting.train_images is None else OPEN,
    )


def _origin(study: _Study) -> dict[str, str]:
    if study.schedule is not None:
        return {"schedule": study.schedule.name}
    return {"search": f"{study.population} trials of {study.search_epochs} epochs, {study.setting.proxy.architecture}"}


def main() -> None:
    """Run the experiment as a command."""
    parser = arguments(__doc__)
    add_setting(parser)
    parser.add_argument("--population", type=int, default=16, help="trials of a search (default: %(default)s)")
    parser.add_argument("--search-epochs", type=int, default=60, help="of each trial (default: %(default)s)")
    parser.add_argument("--schedule", type=Path, help="a schedule found elsewhere, in place of a search")
    options = parser.parse_args()
    use_one_thread()
    study = _Study(
        setting=read_setting(options),
        population=options.population,
        search_epochs=options.search_epochs,
        schedule=options.schedule,
        out=options.out,
    )
    print(run_experiment(make_experiment(study), range(options.seeds), options.out))


if __name__ == "__main__":
    main()
