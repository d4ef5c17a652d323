"""A section of the report."""

from dataclasses import dataclass

from training.report.markup import Markup
from training.report.pictures import Picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section.

    Attributes:
        anchor: its name in links.
        title: its head.
        body: its content.
        pictures: those in the body, which become files too.
    """

    anchor: str
    title: str
    body: Markup
    pictures: tuple[Picture, ...] = ()
