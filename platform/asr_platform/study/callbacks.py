"""Who is told of trials once what happened to them is on record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from asr_platform.study.ledger import Ledger, TrialRecord


class Callback:
    """Told of every trial of a sweep, as the ledger has it."""

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        """A run of the sweep begins with these, of which a killed driver may not have told everything."""

    def on_trial_start(self, trial: TrialRecord) -> None:
        """Its training begins, or goes on."""

    def on_epoch_end(self, trial: TrialRecord) -> None:
        """It has another epoch."""

    def on_worker_lost(self, trial: TrialRecord, reason: str, again: bool) -> None:
        """The machine took one of its processes.

        Args:
            reason: what is known of that, in words.
            again: whether it goes on from its checkpoint now, or waits until the sweep is resumed.
        """

    def on_trial_paused(self, trial: TrialRecord) -> None:
        """The trial waits to be promoted: other trials continue before it."""

    def on_trial_end(self, trial: TrialRecord) -> None:
        """It is complete, stopped early or failed."""


class Display(Callback):
    """What a running sweep shows itself on, such as a terminal (`cli/live.py`)."""

    def sweep(
        self, name: str, dashboard: str, ledger: Ledger, epochs: int, folder: Path
    ) -> AbstractContextManager[None]:
        """Shows the sweep for as long as the block lasts.

        Args:
            dashboard: address of Ray's dashboard.
            epochs: length of a full trial.
            folder: the sweep's own.
        """
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Shows a line of text."""
        raise NotImplementedError

    def on_finish(self, message: Mapping[str, Any]) -> None:
        """Tells that the run has ended, with a summary of it."""
        raise NotImplementedError
