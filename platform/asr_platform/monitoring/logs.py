"""Log of a trial as `platform logs` prints it: what its workers printed, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator

from asr_platform.analysis.leaderboard import pick
from asr_platform.monitoring.status import training
from asr_platform.storage.home import Home
from asr_platform.storage.trial_logs import log_files, printed
from asr_platform.study.failures import diagnose
from asr_platform.study.ledger import Ledger
from trainables.errors import InputError


def trial_log(home: Home, name: str, trial: int, follow: bool = False) -> Iterator[str]:
    """Yields the text of a trial's logs, then lines that say how it ended, if it has.

    Args:
        follow: whether to go on with new text until the training of the trial ends.

    Raises:
        InputError: there is no such trial, or it has no log.
    """
    ledger = Ledger.open(home.studies, name)
    pick(ledger, trial)  # raises InputError if there is no such trial
    folder = home.trial(name, trial)

    def in_training() -> bool:
        return trial in training(home, ledger)

    if not log_files(folder) and not (follow and in_training()):
        raise InputError(
            f"trial {trial} of {name} has no log in {folder}", "Its workers have not begun, or were not logged."
        )
    yield from printed(folder, in_training if follow else lambda: False)
    ended = ledger.trial(trial)
    if ended.state != "running":
        yield f"trial {trial} {ended.state}" + (f": {ended.reason}" if ended.reason else "") + "\n"
    if ended.state == "failed" and (cause := diagnose(ended.reason)):
        yield f"cause: {cause.words}\ntry:   {cause.remedy}\n"
