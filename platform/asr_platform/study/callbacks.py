"""The callback protocol: events of a sweep, each called after it is recorded in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from asr_platform.study.ledger import Ledger, TrialRecord


class Callback:
    """Base class with a method for each event of a sweep, which does nothing; trials are read from the ledger."""

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        """A run of the sweep starts. Callbacks for past events of `trials` may be missing after a kill."""

    def on_trial_start(self, trial: TrialRecord) -> None:
        """The training of a trial starts or continues."""

    def on_epoch_end(self, trial: TrialRecord) -> None:
        """A trial has finished an epoch."""

    def on_worker_lost(self, trial: TrialRecord, reason: str, retried: bool) -> None:
        """A trial has lost a process.

        Args:
            reason: cause of the loss in words.
            retried: whether the trial continues from its checkpoint now; else when the sweep is resumed.
        """

    def on_trial_moved(self, trial: TrialRecord, how: str) -> None:
        """A trial was told to end, between two updates or two epochs, and goes on from there.

        Args:
            how: how it goes on, such as `elsewhere`.
        """

    def on_trial_paused(self, trial: TrialRecord) -> None:
        """A trial waits to be promoted, since other trials continue before it, or is paused on request."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""


class Display(Callback):
    """The display of a running sweep, such as a terminal (`cli/live.py`).

    Attributes:
        targets: addresses that are notified when the run of the sweep ends (`tuning/callbacks/notify.py`).
    """

    targets: Sequence[str] = ()

    def sweep(
        self, name: str, dashboard: str, ledger: Ledger, epochs: int, folder: Path
    ) -> AbstractContextManager[None]:
        """Shows the sweep for the length of the block.

        Args:
            dashboard: address of Ray's dashboard.
            epochs: number of epochs of a trial that is not pruned.
            folder: folder of the sweep.
        """
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Shows a line of text."""
        raise NotImplementedError
