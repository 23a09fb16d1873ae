"""Makes trial records of Optuna's trials and the notes of their study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from asr_platform.study.trials.record import Curve, TrialRecord, TrialStatus
from asr_platform.study.trials.stored import EPOCH

STATES: dict[TrialState, TrialStatus] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
OF_TRIAL = "trial:"  # prefix of a study's notes that are facts about a trial; its number follows
FITTED = "fitted"  # key of the width that fills the budget, which the sampler does not propose
REASON = "reason"
NEXT_CHOICES = "#"  # in a study, between a key whose choices have changed and the number of the change
Facts = dict[int, dict[str, Any]]  # facts about trials by number


class _Kept(NamedTuple):
    """A record, and what it was made of."""

    trial: FrozenTrial
    facts: dict[str, Any]
    widened: Mapping[str, Any] | None
    record: TrialRecord


class RecordReader:
    """Makes records, and keeps them until the trial or a fact about it changes.

    Args:
        metrics: returns the metrics of epochs of a trial, each in JSON.
        located: returns the absolute path for a recorded path of a checkpoint.
    """

    def __init__(
        self, metrics: Callable[[FrozenTrial, Sequence[int]], list[str]], located: Callable[[str], str]
    ) -> None:
        self.metrics, self.located = metrics, located
        self._kept: dict[int, _Kept] = {}

    def records(
        self, trials: Iterable[FrozenTrial], facts: Facts, widened: Mapping[str, Mapping[str, Any]]
    ) -> list[TrialRecord]:
        """Records of trials in their order, which must not be changed.

        Args:
            widened: values of earlier trials in a wider space, by number as text.
        """
        return [self._of(trial, facts.get(trial.number, {}), widened.get(str(trial.number))) for trial in trials]

    def _of(self, trial: FrozenTrial, facts: dict[str, Any], widened: Mapping[str, Any] | None) -> TrialRecord:
        kept = self._kept.get(trial.number)
        if kept and kept.trial is trial and kept.facts == facts and kept.widened == widened:
            return kept.record
        record = self._record(trial, facts, _values(trial, widened))
        self._kept[trial.number] = _Kept(trial, facts, widened, record)
        return record

    def _record(self, trial: FrozenTrial, facts: Mapping[str, Any], params: dict[str, Any]) -> TrialRecord:
        curve = Curve(trial.intermediate_values, partial(self.metrics, trial), self.located)
        attributes, others = trial.user_attrs, (REASON, FITTED)
        own = {key: fact for key, fact in attributes.items() if key not in others and not key.startswith(EPOCH)}
        return TrialRecord(
            trial.number, STATES[trial.state], params, curve, {**own, **facts}, attributes.get(REASON, "")
        )


def params_in(trial: FrozenTrial, widened: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A trial's values in its sweep's space, the width that fills the budget included.

    Args:
        widened: values of earlier trials in a wider space, by number as text.
    """
    return _values(trial, widened.get(str(trial.number)))


def _values(trial: FrozenTrial, widened: Mapping[str, Any] | None) -> dict[str, Any]:
    if widened:
        return dict(widened)
    own = {name.partition(NEXT_CHOICES)[0]: value for name, value in trial.params.items()}
    return {**own, **trial.user_attrs.get(FITTED, {})}


def by_trial(notes: Mapping[str, Any]) -> Facts:
    """Facts about trials by number, from a study's notes whose keys begin with `OF_TRIAL`."""
    facts: Facts = defaultdict(dict)
    for key, fact in notes.items():
        number, _, name = key.removeprefix(OF_TRIAL).partition(":")
        facts[int(number)][name] = fact
    return facts
