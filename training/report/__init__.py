"""What a run did, for people: one page with pictures, from the run's folder alone."""

from training.report.sections.study import write_study
from training.report.write import write_report

__all__ = ["write_report", "write_study"]
