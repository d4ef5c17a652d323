"""The full configuration of a run: from which data to which members, in one frozen tree."""

from dataclasses import dataclass, field

from model_zoo.errors import CardError
from model_zoo.store import check_name
from training.data.sources import SourceField
from training.data.splits import SplitConfig
from training.energy import check_country
from training.members import MemberConfig
from training.policy_search.config import PolicySearchConfig
from training.selection.active_learning import ActiveLearningConfig
from training.selection.core_set import CoreSetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionConfig:
    """Selection via proxy: who chooses, and how much.

    Attributes:
        proxy: the cheap model that is trained in the members' stead; its name is only shown.
        core_set: what part of the training images is kept.
        active_learning: the images are labelled round after round by this, in place of the core-set; None for a
            core-set.
    """

    proxy: MemberConfig
    core_set: CoreSetConfig = field(default_factory=CoreSetConfig)
    active_learning: ActiveLearningConfig | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All that a run does.

    Attributes:
        task: name of the zoo's task, which the members solve.
        source: where the images come from.
        splits: sizes of the disjoint parts.
        members: what is trained, usually from small to large; the names are those in the zoo.
        selection: how a subset is chosen when one is.
        should_select: ``run`` trains the members on a selection.
        policy_search: how augmentation policies are searched when they are.
        should_search: ``run`` searches a policy schedule and trains the members under it, in place of their own.
        device: where everything is trained: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads of torch's; None is as many as it likes. The smallest networks are faster with one.
        seed: what the recipe drew the other seeds from; recorded.
        energy_country: three capitals (ISO 3166-1 alpha-3), such as ``FRA``, whose electricity the members are trained
            with: energy and CO2 are then measured by codecarbon. None measures none.
        tensorboard: the members' curves are also written for TensorBoard.
        validate_every: epochs from one look at the calibration images to the next, for the members' curves and
            DAWNBench tables; nothing is chosen by it. None looks at them only when all is trained.
    """

    task: str
    source: SourceField
    splits: SplitConfig
    members: tuple[MemberConfig, ...]
    selection: SelectionConfig | None = None
    should_select: bool = False
    policy_search: PolicySearchConfig | None = None
    should_search: bool = False
    device: str = "cpu"
    threads: int | None = None
    seed: int = 0
    energy_country: str | None = None
    tensorboard: bool = False
    validate_every: int | None = None

    def __post_init__(self) -> None:
        _check_name("task", self.task)
        names = [member.name for member in self.members]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"members: got names {names}; must be at least one, and all different")
        stages = {member_stage(name) for name in names}
        if len(stages) != len(names):
            raise ValueError(f"members: got names {names}; must differ in more than capitals and dots")
        for name in ("threads", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}; must be at least 1")
        if self.energy_country is not None:
            check_country(self.energy_country)
        for should, settings in (("should_select", "selection"), ("should_search", "policy_search")):
            if getattr(self, should) and getattr(self, settings) is None:
                raise ValueError(f"{should}: got true; must be false where {settings} is null")
        if self.should_search and self.splits.policy_validation == 0:
            raise ValueError("splits.policy_validation: got 0; must be above 0 where a policy is searched")


def member_stage(name: str) -> str:
    """Give the name of the stage that trains a member: its folder in the run's."""
    return f"member-{name.lower().replace('.', '_')}"


def _check_name(kind: str, name: str) -> None:
    try:
        check_name(kind, name)
    except CardError as error:
        raise ValueError(str(error)) from error
