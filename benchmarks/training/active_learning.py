"""Active learning by a proxy: labels bought round after round, the target trained on what was bought.

Coleman et al. (arXiv 1906.11829, section 3.2) choose up to 41.9 times faster by a proxy at the same accuracy. Time of
selection is the sum over rounds of training, scoring and ranking; the speed-up is the target's, as its own proxy, over
the proxy's, and counts only where the proxy's error lies within one standard deviation of the target's.

    python -m benchmarks.training.active_learning [--task digits|cifar10-jpeg] [--first 50] [--last 500] [--rounds 5]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from benchmarks.training.experiment import EVIDENCE, OPEN, Arm, Experiment, Figures, arguments, run_experiment
from benchmarks.training.tasks import Setting, add_setting, read_setting, train_and_judge, use_one_thread
from training.members import MemberTrainer
from training.selection.active_learning import ActiveLearningConfig, run_active_learning
from training.selection.subset import Subset

_SCORES = ("least_confidence", "entropy", "margin", "k_center")
_BY_TARGET = ("least_confidence", "k_center")


@dataclass(frozen=True)
class _Study:
    setting: Setting
    sizes: tuple[int, ...]

    def run(self, score: str, seed: int, *, by_target: bool) -> Figures:
        """Buy labels and train the target on the last set; on the middle one too."""
        task = self.setting.task(seed)
        bought = _buy(self.setting, score, self.sizes, by_target, seed)
        loop = replace(self.setting.model.loop, seed=seed)
        figures: dict[str, float] = {}
        for subset in (bought[len(bought) // 2], bought[-1]):
            _, found = train_and_judge(self.setting, task, loop, train=subset.apply(task.train))
            figures[f"accuracy % at {len(subset)}"] = found["accuracy %"]
        return {**figures, "selection, process s": bought[-1].seconds.total.process_s}

    def run_all(self, seed: int) -> Figures:
        """Train the target on every image, labelled."""
        task = self.setting.task(seed)
        _, found = train_and_judge(self.setting, task, replace(self.setting.model.loop, seed=seed))
        return {f"accuracy % at {size}": found["accuracy %"] for size in self.shown}

    @property
    def shown(self) -> tuple[int, int]:
        """Sizes that the target is trained at."""
        return self.sizes[len(self.sizes) // 2], self.sizes[-1]


@lru_cache(maxsize=1)
def _buy(setting: Setting, score: str, sizes: Sequence[int], by_target: bool, seed: int) -> tuple[Subset, ...]:
    task = setting.task(seed)
    model = setting.model if by_target else setting.proxy
    trainer = MemberTrainer(config=model, normalisation=task.normalisation, device=setting.device)
    shares = tuple(size / len(task.train) for size in sizes)
    return run_active_learning(ActiveLearningConfig(score=score, shares=shares, seed=seed), task.train, trainer)


def make_experiment(setting: Setting, sizes: tuple[int, ...]) -> Experiment:
    """Give one arm a score by the proxy, some by the target, chance, and all labels."""
    study = _Study(setting, sizes)
    arms = [Arm(name=f"{score}, by the target", run=partial(study.run, score, by_target=True)) for score in _BY_TARGET]
    arms += [Arm(name=f"{score}, by the proxy", run=partial(study.run, score, by_target=False)) for score in _SCORES]
    arms.append(Arm(name="random", run=partial(study.run, "random", by_target=False)))
    arms.append(Arm(name="all labels", run=study.run_all))
    return Experiment(
        name=f"active_learning_{setting.name}",
        title=f"Active learning on {setting.name}, {sizes[0]} to {sizes[-1]} labels in {len(sizes) - 1} rounds",
        arms=arms,
        baseline=arms[0].name,
        compared=f"accuracy % at {sizes[-1]}",
        ratios=("selection, process s",),
        settings={
            **setting.describe(),
            "proxy": f"{setting.proxy.architecture}, {setting.proxy.loop.epochs} epochs",
            "labels": sizes,
        },
        standing=EVIDENCE if setting.name == "digits" or setting.train_images is None else OPEN,
    )


def spread_sizes(first: int, last: int, steps: int) -> tuple[int, ...]:
    """Give the labelled set's size at first and after each round, evenly spaced."""
    return tuple(round(first + (last - first) * step / steps) for step in range(steps + 1))


def main() -> None:
    """Run the experiment as a command."""
    parser = arguments(__doc__)
    add_setting(parser)
    parser.add_argument("--first", type=int, default=50, help="labels at first, by chance (default: %(default)s)")
    parser.add_argument("--last", type=int, default=500, help="labels in the end (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds from first to last (default: %(default)s)")
    options = parser.parse_args()
    use_one_thread()
    sizes = spread_sizes(options.first, options.last, options.rounds)
    print(run_experiment(make_experiment(read_setting(options), sizes), range(options.seeds), options.out))


if __name__ == "__main__":
    main()
