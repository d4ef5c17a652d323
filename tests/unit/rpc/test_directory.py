from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fake_engine import FakeEngine, make_plan
from prometheus_client import CollectorRegistry

from cascade_serve.bundle import Bundle
from cascade_serve.core.plan import Plan, Policy
from cascade_serve.errors import InvalidRequestError, NotFoundError, UnavailableError
from cascade_serve.metrics import Metrics
from cascade_serve.repository import IndexEntry
from cascade_serve.rpc.directory import find, is_ready, refuse_member


@dataclass
class OneVersion:
    bundle: Bundle
    engine: FakeEngine

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def version(self) -> int:
        return self.bundle.version


def prefixed(plan: Plan) -> Plan:
    def rename(policy: Policy) -> Policy:
        return replace(policy, stages=tuple(replace(stage, member=f"b.{stage.member}") for stage in policy.stages))

    return replace(
        plan,
        members=tuple(replace(member, name=f"b.{member.name}") for member in plan.members),
        policies={name: rename(policy) for name, policy in plan.policies.items()},
    )


class DottedRepository:
    """Cascades "a" (with a member "b.small") and "a.b" (with a member "small"); "late" is still loading."""

    is_ready = False

    def __init__(self) -> None:
        self.holds = 0
        plan = make_plan({})
        dotted = prefixed(plan)
        metrics = Metrics(CollectorRegistry())
        bundles = [Bundle(name=name, version=1, path=Path(), plan=one) for name, one in (("a", dotted), ("a.b", plan))]
        self.served = {
            bundle.name: OneVersion(bundle, FakeEngine(bundle, metrics.observer(bundle.name, bundle.plan)))
            for bundle in bundles
        }

    @contextmanager
    def acquire(self, cascade: str, version: str = "") -> Iterator[OneVersion]:
        if cascade == "late":
            raise UnavailableError("it is loading")
        if cascade not in self.served or version not in ("", "1"):
            raise NotFoundError("cascade", cascade, sorted(self.served))
        self.holds += 1
        try:
            yield self.served[cascade]
        finally:
            self.holds -= 1

    def index(self) -> list[IndexEntry]:
        return [
            IndexEntry(name="a", version="1", state="READY"),
            IndexEntry(name="a.b", version="1", state="READY"),
            IndexEntry(name="late", version="1", state="LOADING"),
        ]

    def load(self, cascade: str) -> None:
        raise AssertionError(cascade)

    def unload(self, cascade: str) -> None:
        raise AssertionError(cascade)


@pytest.fixture
def repository() -> DottedRepository:
    return DottedRepository()


@pytest.mark.parametrize(
    ("name", "cascade", "member"),
    [
        ("a", "a", None),
        ("a.b", "a.b", None),
        # Both cascades could mean this; the longer name wins.
        ("a.b.small", "a.b", "small"),
        ("a.b.b.small", None, None),
        ("a.small", None, None),
        ("a.", None, None),
        (".", None, None),
        ("b.small", None, None),
    ],
)
def test_names_with_dots_are_told_apart(
    repository: DottedRepository, name: str, cascade: str | None, member: str | None
) -> None:
    if cascade is None:
        with pytest.raises(NotFoundError, match=r"known: a, a\.b, late$"), find(repository, name, ""):
            pass
    else:
        with find(repository, name, "1") as subject:
            assert (subject.served.name, subject.member and subject.member.name) == (cascade, member)
            assert subject.name == name
            assert repository.holds == 1
    assert repository.holds == 0


def test_ready_is_what_answers(repository: DottedRepository) -> None:
    assert is_ready(repository, "a", "")
    assert is_ready(repository, "a.b.large", "1")
    assert not is_ready(repository, "a", "2")
    assert not is_ready(repository, "late", "")
    assert not is_ready(repository, "late.small", "")
    assert not is_ready(repository, "", "")


def test_only_members_are_sent_to_their_cascade(repository: DottedRepository) -> None:
    with pytest.raises(InvalidRequestError, match=r"^model_name: got 'a.b.small'; must be 'a.b', its cascade"):
        refuse_member(repository, "a.b.small", "")
    refuse_member(repository, "a.b", "")
    refuse_member(repository, "nobody", "")
