"""From a run's folder to its report: one HTML file, and its pictures as PNG files beside it."""

from collections.abc import Sequence
from pathlib import Path

from training.errors import ReportError
from training.files import write_whole
from training.report.contents import read_contents
from training.report.page import make_page
from training.report.pictures import PictureName
from training.report.section import Section
from training.report.sections.data_schedule import data_schedule_section
from training.report.sections.descent import descent_section
from training.report.sections.learning import learning_section
from training.report.sections.members import members_section
from training.report.sections.next_steps import next_section
from training.report.sections.policy import policy_section
from training.report.sections.ranks import ranks_section
from training.report.sections.run import run_section
from training.report.sections.selection import selection_section

REPORT_FOLDER = "report"
REPORT_FILE = "report.html"
_SECTIONS = (
    run_section,
    members_section,
    learning_section,
    selection_section,
    policy_section,
    data_schedule_section,
    ranks_section,
    descent_section,
    next_section,
)


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write what a run did as one page, with all pictures in it, and as PNG files beside it.

    What the run has not done has no section; a run that is on its way, or was killed, is reported so far and marked so.
    The same folder gives the same bytes.

    Args:
        run_dir: the run's folder; it is read only, but for ``out``.
        out: folder of ``report.html`` and the PNG files, made where it is absent; what an older report left there is
            replaced. None is ``report`` in the run's folder.

    Returns:
        the page.

    Raises:
        ReportError: the report can't be written.
        TrainingError: it is no run's folder, or a file in it is damaged; the message names the file.
    """
    contents = read_contents(run_dir)
    sections = [section for make in _SECTIONS if (section := make(contents)) is not None]
    page = make_page(contents, sections)
    folder = run_dir / REPORT_FOLDER if out is None else out
    try:
        _write_pictures(sections, folder)
        write_whole(folder / REPORT_FILE, page.encode())
    except OSError as error:
        raise ReportError(f"{error.filename or folder}: {error.strerror or error}") from error
    return folder / REPORT_FILE


def _write_pictures(sections: Sequence[Section], folder: Path) -> None:
    pictures = {picture.name: picture for section in sections for picture in section.pictures}
    for name in PictureName:
        path = folder / f"{name}.png"
        if name in pictures:
            write_whole(path, pictures[name].png())
        else:
            path.unlink(missing_ok=True)
