"""What the driver of a search on Ray does with what it hears: write it down, tell it, stop where a trial fails."""

from pathlib import Path
from typing import Any

from training.policy_search.ray_sessions import append_record
from training.policy_search.ray_trainable import RECORD
from training.policy_search.trial import Progress


def watch(journal: Path, progress: Progress | None) -> Any:
    """Make a callback and stopper for Ray Tune; its ``failure`` tells of a trial that failed for good, if one did.

    Such a trial ends the whole search: a synchronous scheduler would wait for it for ever.

    Args:
        journal: file that each record is appended to.
        progress: called with each record.
    """
    from ray import tune

    class Watch(tune.Callback, tune.Stopper):
        def __init__(self) -> None:
            self.failure: str | None = None
            self._progress = progress

        def __getstate__(self) -> dict[str, Any]:
            # Tune pickles its callbacks; a caller's function may hold anything.
            return {"failure": self.failure, "_progress": None}

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            del iteration, trials, trial
            record = append_record(journal, result[RECORD])
            if self._progress is not None:
                self._progress(record)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            del iteration, trials
            self.failure = f"{trial}: failed {trial.num_failures} times, last with {_last_line(trial.error_file)}"

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            del trial_id, result
            return False

        def stop_all(self) -> bool:
            return self.failure is not None

    return Watch()


def _last_line(error_file: str | None) -> str:
    """Give what an exception says, the last line of the trace that Tune keeps."""
    if error_file is None:
        return "an error of which no trace was kept"
    try:
        return Path(error_file).read_text(encoding="utf-8").strip().rpartition("\n")[2]
    except OSError as error:
        return f"an error whose trace can't be read: {error}"
