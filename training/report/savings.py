"""Evaluations saved: what members were trained on, against all of train in every epoch."""

from training.member_job import MemberFacts
from training.report.contents import RunContents


def full_evaluations(contents: RunContents, facts: MemberFacts) -> int | None:
    """Count what a member would have been trained on with all of train in each of its epochs.

    Returns:
        single images; None where the run's data are not known.
    """
    return None if contents.data is None else contents.data.images["train"] * facts.config.loop.epochs


def saved_share(contents: RunContents, facts: MemberFacts) -> float | None:
    """Give the share of those that was saved, by a subset and a data schedule together."""
    full = full_evaluations(contents, facts)
    return None if full is None else 1 - facts.evaluations / full
