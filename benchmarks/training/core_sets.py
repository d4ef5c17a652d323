"""Core-sets by every score, by a proxy's word and by the target's own: accuracy of the target, and what choosing took.

Coleman et al. (arXiv 1906.11829) remove half of CIFAR-10 without loss. Where data are scarce and training is short,
choosing the hardest images is known to lose to chance; CCS (Zheng et al., ICLR 2023), which drops the very hardest and
samples the rest evenly over strata of the score, mends that. Both controls are in every table.

    python -m benchmarks.training.core_sets [--task digits|cifar10-jpeg] [--fraction 0.3] [--train-images N]

A core-set is trained on for the epochs of all data (and so for fewer steps); with ``--same-steps`` for as many steps.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial

from benchmarks.training.experiment import EVIDENCE, OPEN, Arm, Experiment, Figures, arguments, run_experiment
from benchmarks.training.tasks import Setting, add_setting, read_setting, train_and_judge, use_one_thread
from training.members import MemberConfig, MemberTrainer
from training.selection.core_set import CoreSet, CoreSetConfig, same_steps_epochs, select_core_sets

_SCORES = ("forgetting_events", "least_confidence", "entropy", "margin", "k_center", "ccs", "random")
_BY_TARGET = ("forgetting_events", "least_confidence")


@dataclass(frozen=True)
class _Study:
    """What all arms share; selections are made once a seed and kept while the seed runs."""

    setting: Setting
    fraction: float
    same_steps: bool

    def train_on_all(self, seed: int) -> Figures:
        task = self.setting.task(seed)
        _, figures = train_and_judge(self.setting, task, replace(self.setting.model.loop, seed=seed))
        return {"images": len(task.train), **figures, "with selection, process s": figures["process s"]}

    def train_on_core_set(self, score: str, *, by_target: bool, seed: int) -> Figures:
        task = self.setting.task(seed)
        chosen = _select(self.setting, self.fraction, by_target, seed)[score]
        kept = chosen.subset.apply(task.train)
        loop = replace(self.setting.model.loop, seed=seed)
        if self.same_steps:
            epochs = same_steps_epochs(
                loop.epochs, num_images=len(task.train), subset_size=len(kept), batch_size=loop.batch_size
            )
            loop = replace(loop, epochs=epochs)
        _, figures = train_and_judge(self.setting, task, loop, train=kept)
        selection_s = chosen.subset.seconds.total.process_s
        return {
            "images": len(kept),
            **figures,
            "selection, process s": selection_s,
            "with selection, process s": figures["process s"] + selection_s,
        }


@lru_cache(maxsize=2)
def _select(setting: Setting, fraction: float, by_target: bool, seed: int) -> dict[str, CoreSet]:
    """Choose by all scores, by one model."""
    task = setting.task(seed)
    model: MemberConfig = setting.model if by_target else setting.proxy
    configs = [CoreSetConfig(score=score, fraction=fraction, seed=seed) for score in _SCORES]
    trainer = MemberTrainer(config=model, normalisation=task.normalisation, device=setting.device)
    return dict(zip(_SCORES, select_core_sets(configs, task.train, trainer), strict=True))


def make_experiment(setting: Setting, fraction: float, *, same_steps: bool) -> Experiment:
    """Give one arm a score, the target as its own proxy beside two of them, and all data."""
    study = _Study(setting, fraction, same_steps)
    by_proxy = [
        Arm(name=f"{score}, by the proxy", run=partial(_run, study, score, by_target=False))
        for score in _SCORES
        if score != "random"
    ]
    by_target = [
        Arm(name=f"{score}, by the target", run=partial(_run, study, score, by_target=True)) for score in _BY_TARGET
    ]
    by_chance = Arm(name="random", run=partial(_run, study, "random", by_target=False))
    length = "steps" if same_steps else "epochs"
    return Experiment(
        name=f"core_sets_{setting.name}_{100 * fraction:.0f}_same_{length}",
        title=f"Core-sets of {100 * fraction:.0f} % of {setting.name}, trained on for the {length} of all data",
        arms=[Arm(name="all data", run=study.train_on_all), *by_proxy, *by_target, by_chance],
        baseline="all data",
        ratios=("with selection, process s",),
        settings={**setting.describe(), "proxy": _describe(setting.proxy), "fraction": fraction},
        standing=EVIDENCE if setting.name == "digits" or setting.train_images is None else OPEN,
    )


def _run(study: _Study, score: str, seed: int, *, by_target: bool) -> Figures:
    return study.train_on_core_set(score, by_target=by_target, seed=seed)


def _describe(model: MemberConfig) -> str:
    arguments_ = "".join(f" {name} {value}" for name, value in model.arguments.items())
    return f"{model.architecture}{arguments_}, {model.loop.epochs} epochs"


def main() -> None:
    """Run the experiment as a command."""
    parser = arguments(__doc__)
    add_setting(parser)
    parser.add_argument("--fraction", type=float, default=0.3, help="of the images that is kept (default: %(default)s)")
    parser.add_argument("--same-steps", action="store_true", help="train on a core-set for the steps of all data")
    options = parser.parse_args()
    use_one_thread()
    experiment = make_experiment(read_setting(options), options.fraction, same_steps=options.same_steps)
    print(run_experiment(experiment, range(options.seeds), options.out))


if __name__ == "__main__":
    main()
