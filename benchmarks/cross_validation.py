"""How plans do on images that they have not seen: plan on four fifths of a zoo's calibration rows, judge on the rest.

Five disjoint folds, so that every row is judged once by a plan that had no part in it; repeated over split seeds. The
rows of one repeat are pooled; differences to the largest member are paired.

    python -m benchmarks.cross_validation ZOO/TASK [--largest resnet56] [--repeats 5]
"""
# Shapes: N rows.

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cascade_serve.core.arrays import Float64Array, IntArray
from cascade_serve.core.plan import Plan, Policy
from cascade_serve.planner.committee import Gate, Outcome, Rules, evaluate_policy
from cascade_serve.planner.demands import Demands
from cascade_serve.planner.planning import make_committee, make_study
from cascade_serve.planner.policies import draw_plan
from cascade_serve.planner.search import Limits
from cascade_serve.planner.zoo_rows import ZooRows, read_zoo_members, read_zoo_rows, read_zoo_task

_FOLDS = 5


class CrossValidation:
    """Plans on parts of a zoo's rows, and judges on the other parts."""

    def __init__(self, task_path: Path, largest: str) -> None:
        self._task = read_zoo_task(task_path)
        self._members = read_zoo_members(task_path, None)
        self._names = [member.name for member in self._members]
        self._flops = [member.card.cost.flops for member in self._members]
        self._rows = read_zoo_rows(self._members)
        self.largest = self._names.index(largest)

    @property
    def largest_flops(self) -> int:
        """FLOPs of the largest member, per image."""
        return self._flops[self.largest]

    @property
    def num_rows(self) -> int:
        """All rows."""
        return len(self._rows.labels_N)

    def judge(self, seed: int, choose: Callable[[Plan], Policy]) -> tuple[Float64Array, Float64Array, list[str]]:
        """Give, for every row, the gain over the largest member (-1, 0, 1) and the FLOPs ratio; and the references."""
        order = np.random.default_rng(seed).permutation(self.num_rows)
        gain_N, ratio_N, references = np.zeros(self.num_rows), np.zeros(self.num_rows), []
        for fold in range(_FOLDS):
            unseen = order[fold::_FOLDS]
            seen = np.setdiff1d(order, unseen)
            plan, rows_A = self._plan(seen, seed)
            ours, alone = self._outcomes(plan, choose(plan), rows_A, unseen)
            gain_N[unseen] = ours.correct_N.astype(float) - alone.correct_N
            ratio_N[unseen] = ours.flops_S[ours.exit_stage_N] / self.largest_flops
            references.append(plan.reference or "-")
        return gain_N, ratio_N, references

    def _plan(self, seen: IntArray, seed: int) -> tuple[Plan, IntArray]:
        part = ZooRows(
            logits=tuple(logits_NK[seen] for logits_NK in self._rows.logits),
            labels_N=self._rows.labels_N[seen],
            sample_ids_N=self._rows.sample_ids_N[seen],
            num_repeated=0,
        )
        study = make_study(part, self._names, self._flops, Demands(limits=Limits(), seed=seed))
        return draw_plan(study, self._task, self._members, part), seen[study.rows_A]

    def _outcomes(self, plan: Plan, policy: Policy, rows_A: IntArray, unseen: IntArray) -> tuple[Outcome, Outcome]:
        # Temperatures are those of the plan: fitted on its half A.
        committee = make_committee(self._rows, self._names, self._flops, rows_A)
        rules = Rules(combine=plan.combine, confidence=plan.confidence)
        gates = tuple(
            Gate(member=self._names.index(stage.member), threshold=stage.threshold) for stage in policy.stages
        )
        alone = (Gate(member=self.largest),)
        ours, single = (evaluate_policy(committee, rules, each).rows(unseen) for each in (gates, alone))
        return ours, single


def main() -> None:
    """Judge and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, help="ZOO/TASK")
    parser.add_argument("--largest", default="resnet56")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    validation = CrossValidation(arguments.task, arguments.largest)

    def dear(plan: Plan) -> Policy:
        front = [policy for name, policy in plan.policies.items() if name.startswith("front-")]
        within = [policy for policy in front if (policy.expected_flops or np.inf) <= validation.largest_flops]
        return max(within, key=lambda policy: policy.expected_flops or 0.0)

    choices: dict[str, Callable[[Plan], Policy]] = {
        "default": lambda plan: plan.policies["default"],
        "fast": lambda plan: plan.policies["fast"],
        f"dearest front-NN within {arguments.largest}'s FLOPs": dear,
    }
    print(
        f"{_FOLDS} folds of {validation.num_rows} rows, {arguments.repeats} split seeds; against {arguments.largest}\n"
    )
    print(
        f"| policy | seed | difference to {arguments.largest}, points [paired 95 %] | mean FLOPs ratio | references |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, choose in choices.items():
        for seed in range(arguments.repeats):
            gain_N, ratio_N, references = validation.judge(seed, choose)
            mean, half = 100 * gain_N.mean(), 196 * gain_N.std(ddof=1) / np.sqrt(len(gain_N))
            interval = f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
            print(f"| {name} | {seed} | {interval} | {ratio_N.mean():.3f} | {', '.join(references)} |", flush=True)


if __name__ == "__main__":
    main()
