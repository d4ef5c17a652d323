"""Data Step (E1..E9), Increment, Cut and InfoBatch beside training on everything: accuracy, evaluations, process time.

Sanderson and Kalganova (arXiv 2208.02007) say that evaluations, and with them the time, fall by up to half and more at
little loss, and that Step beats Increment beats Cut at equal evaluations.

    python -m benchmarks.training.data_schedules [--task digits|cifar10-jpeg] [--train-images N] [--width W]
"""

from dataclasses import replace
from functools import partial

from benchmarks.training.experiment import EVIDENCE, OPEN, Arm, Experiment, Figures, arguments, run_experiment
from benchmarks.training.tasks import Setting, add_setting, read_setting, train_and_judge, use_one_thread
from training.data_schedule.config import (
    AllData,
    CutMode,
    DataCut,
    DataIncrement,
    DataScheduleConfig,
    InfoBatch,
    data_step_grid,
)

_NAMES = {
    f"{name} step {100 * step.fraction:.0f} % for {100 * step.share:.0f} %": step
    for name, step in data_step_grid().items()
}
SCHEDULES: dict[str, DataScheduleConfig] = {
    "all data": AllData(),
    **_NAMES,
    "increment from 25 %": DataIncrement(fraction=0.25),
    "increment from 50 %": DataIncrement(fraction=0.5),
    "cut 2 cumulative": DataCut(cuts=2),
    "cut 9 cumulative": DataCut(cuts=9),
    "cut 4 leave one out": DataCut(cuts=4, mode=CutMode.LEAVE_ONE_OUT),
    "cut 4 rotate": DataCut(cuts=4, mode=CutMode.ROTATE),
    "infobatch": InfoBatch(),
}
"""Name in the tables → schedule; the first is the baseline."""


def make_experiment(setting: Setting) -> Experiment:
    """Give one arm a schedule; all see the same images, in as many epochs."""

    def run(schedule: DataScheduleConfig, seed: int) -> Figures:
        task = setting.task(seed)
        loop = replace(setting.model.loop, data_schedule=schedule, seed=seed)
        _, figures = train_and_judge(setting, task, loop)
        whole = loop.epochs * len(task.train)
        return {**figures, "evaluations %": 100 * figures["evaluations"] / whole}

    return Experiment(
        name=f"data_schedules_{setting.name}",
        title=f"Dynamic data on {setting.name}",
        arms=[Arm(name=name, run=partial(run, schedule)) for name, schedule in SCHEDULES.items()],
        baseline="all data",
        ratios=("evaluations", "process s"),
        settings=setting.describe(),
        standing=EVIDENCE if setting.name == "digits" or setting.train_images is None else OPEN,
    )


def main() -> None:
    """Run the experiment as a command."""
    parser = arguments(__doc__)
    add_setting(parser)
    options = parser.parse_args()
    use_one_thread()
    print(run_experiment(make_experiment(read_setting(options)), range(options.seeds), options.out))


if __name__ == "__main__":
    main()
