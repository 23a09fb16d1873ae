"""A study's trials in memory, read from its storage as far as they are asked for."""

from __future__ import annotations

import copy
import json
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from asr_platform.compat.optuna_storage import bulk_storage, decoded
from asr_platform.study.trials.record import best_epoch

EPOCH = "epoch:"  # prefix of a trial's attributes that are the metrics of an epoch; its number follows
Texts = Mapping[int, Mapping[int, str]]  # metrics of epochs as a database has them, by id of the trial and epoch


class Source(Protocol):
    """Reads parts of a study from its storage: `BulkStorage`, or `_Whole` for storages that read whole trials only."""

    def progress(
        self, study_id: int, ids: Collection[int], after: int | None
    ) -> Mapping[int, tuple[TrialState, int]]: ...

    def without_metrics(self, study_id: int, ids: Sequence[int], metrics: str) -> list[FrozenTrial]: ...

    def texts(self, study_id: int, metrics: str, ids: Sequence[int] | None = None) -> Texts: ...

    def texts_at(self, steps: Mapping[int, Sequence[int]], metrics: str) -> Texts: ...


class StoredTrials:
    """The trials of a study as Optuna's records, which have the metrics of their best epoch alone.

    An epoch counts once it has both metrics and a value, which is written last. The metrics of all epochs are most of a
    study: those that records lack are read when they are asked for, of one trial, but the second time of all trials:
    who asks for two usually asks for all. A trial is read again only if its state or its number of values has changed:
    epochs that count never change.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._id = study, study._study_id
        self._source: Source = bulk_storage(study) or _Whole(study)
        self._trials: dict[int, FrozenTrial] = {}  # by number
        self._values: dict[int, int | None] = {}  # number of values by id of the trial; None: it has ended
        self._latest = -1  # id up to which all trials are known
        self._texts: dict[int, dict[int, str]] = defaultdict(dict)  # like `Texts`
        self._readings = 0  # of metrics that records lack
        self._lock = threading.RLock()

    def all(self) -> list[FrozenTrial]:
        """All trials, ordered by number; the records must not be changed."""
        with self._lock:
            unfinished = [trial_id for trial_id, values in self._values.items() if values is not None]
            progress = self._source.progress(self._id, unfinished, self._latest)
            self._refresh(progress)
            self._latest = max(self._latest, *progress, -1)
            return [self._trials[number] for number in sorted(self._trials)]

    def one(self, number: int) -> FrozenTrial:
        """The trial with this number; other trials are not read.

        Raises:
            KeyError: there is no such trial.
        """
        with self._lock:
            known = self._trials.get(number)
            if known is None or not known.state.is_finished():
                of_number = self._study._storage.get_trial_id_from_study_id_trial_number
                trial_id = known._trial_id if known else of_number(self._id, number)
                self._refresh(self._source.progress(self._id, [trial_id], None))
            return self._trials[number]

    def add_epoch(self, number: int, epoch: int, value: float, text: str) -> None:
        """Adds an epoch that was just recorded of a trial, which need not be read again for it.

        Args:
            text: the epoch's metrics in JSON.
        """
        with self._lock:
            known = self._trials.get(number)
            if known is None or epoch in known.intermediate_values:
                return  # it was read since
            trial = copy.copy(known)
            trial.intermediate_values = {**known.intermediate_values, epoch: value}
            self._texts[trial._trial_id][epoch] = json.dumps(text)
            self._trials[number] = self._with_best(trial)
            self._values[trial._trial_id] = (self._values[trial._trial_id] or 0) + 1

    def metrics(self, trial: FrozenTrial, epochs: Sequence[int]) -> list[str]:
        """Metrics of epochs of a trial, each in JSON."""
        with self._lock:
            texts = self._texts[trial._trial_id]
            if any(epoch not in texts for epoch in epochs):
                self._readings += 1
                ids = None if self._readings == 2 else [trial._trial_id]
                counting = {one._trial_id: one.intermediate_values for one in [*self._trials.values(), trial]}
                for trial_id, found in self._source.texts(self._id, EPOCH, ids).items():
                    known = counting.get(trial_id, {})  # metrics that do not count yet may be written again
                    self._texts[trial_id].update({epoch: text for epoch, text in found.items() if epoch in known})
            return [decoded(texts[epoch]) for epoch in epochs]

    def half_recorded(self) -> dict[int, dict[int, str]]:
        """Metrics in JSON of epochs of unfinished trials that have no value, by id of the trial and epoch."""
        with self._lock:
            values = {one._trial_id: one.intermediate_values for one in self.all() if not one.state.is_finished()}
            found = self._source.texts(self._id, EPOCH, [*values])
            return {
                trial_id: {epoch: decoded(text) for epoch, text in texts.items() if epoch not in values[trial_id]}
                for trial_id, texts in found.items()
            }

    def _refresh(self, progress: Mapping[int, tuple[TrialState, int]]) -> None:
        """Reads the trials that have changed, given the state and the number of values of each by id."""
        now = {trial_id: None if state.is_finished() else values for trial_id, (state, values) in progress.items()}
        changed = [trial_id for trial_id, values in now.items() if self._values.get(trial_id, -1) != values]
        if not changed:
            return
        found = self._source.without_metrics(self._id, changed, EPOCH)
        lacking: dict[int, list[int]] = defaultdict(list)
        for trial in found:
            best = best_epoch(trial.intermediate_values)
            if best is not None and best not in self._texts[trial._trial_id]:
                lacking[best].append(trial._trial_id)
        for trial_id, texts in self._source.texts_at(lacking, EPOCH).items():
            self._texts[trial_id].update(texts)
        for trial in found:
            self._trials[trial.number] = self._with_best(trial)
            self._values[trial._trial_id] = now[trial._trial_id]

    def _with_best(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial with the metrics of its best epoch among its attributes, and of no other."""
        best = best_epoch(trial.intermediate_values)
        attributes = {key: fact for key, fact in trial.user_attrs.items() if not key.startswith(EPOCH)}
        if best is not None:
            attributes[f"{EPOCH}{best}"] = decoded(self._texts[trial._trial_id][best])
        trial.user_attrs = attributes
        return trial


class _Whole:
    """Reads a study in a storage that reads whole trials only, such as one in memory."""

    def __init__(self, study: Study) -> None:
        self.storage, self.study_id = study._storage, study._study_id

    def progress(
        self, study_id: int, ids: Collection[int], after: int | None
    ) -> Mapping[int, tuple[TrialState, int]]:  # fmt: skip
        found = [one for one in self._all() if one._trial_id in ids or (after is not None and one._trial_id > after)]
        return {one._trial_id: (one.state, len(one.intermediate_values)) for one in found}

    def without_metrics(self, study_id: int, ids: Sequence[int], metrics: str) -> list[FrozenTrial]:
        found = [copy.copy(one) for one in self._all() if one._trial_id in ids]
        for trial in found:
            facts, values = trial.user_attrs, trial.intermediate_values
            trial.user_attrs = {key: fact for key, fact in facts.items() if not key.startswith(metrics)}
            trial.intermediate_values = {step: each for step, each in values.items() if f"{metrics}{step}" in facts}
        return found

    def texts(self, study_id: int, metrics: str, ids: Sequence[int] | None = None) -> Texts:
        return {
            one._trial_id: {
                int(key.removeprefix(metrics)): json.dumps(fact)
                for key, fact in one.user_attrs.items()
                if key.startswith(metrics)
            }
            for one in self._all()
            if ids is None or one._trial_id in ids
        }

    def texts_at(self, steps: Mapping[int, Sequence[int]], metrics: str) -> Texts:
        return self.texts(self.study_id, metrics, [trial_id for ids in steps.values() for trial_id in ids])

    def _all(self) -> Iterable[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id, deepcopy=False)
