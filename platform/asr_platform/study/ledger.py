"""The ledger: the record of a sweep and its trials, in one Optuna study.

The study is the only record: Ray runs trials, MLflow shows them, and samplers propose from the study alone
(`samplers.py`). So nothing about the search is lost when the process is killed.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from asr_platform.compat.optuna import running_trial
from asr_platform.storage.database import decoding, open_storage
from asr_platform.storage.home import name_taken
from asr_platform.storage.relocation import moved_along
from asr_platform.study.samplers import (
    NEXT_CHOICES,
    SAMPLER_NOTES,
    Feasible,
    Observation,
    distributions_of,
    observe,
    parameter_name,
    propose,
)
from search_spaces.space import Proposal, Space
from trainables.errors import InputError
from trainables.evaluation.metrics import objective_value

TrialStatus = Literal["running", "complete", "pruned", "failed"]
STATES: dict[TrialState, TrialStatus] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
OPTUNA_STATES = {name: state for state, name in STATES.items()}
Storage = str | optuna.storages.BaseStorage  # an address, or an open storage
ABOUT = "about"  # facts from the start of a sweep, which later ones override
OF_TRIAL = "trial:"  # prefix of facts about a trial; its number follows
OF_REQUEST = "request:"  # prefix of what other processes ask of the driver (`steering/requests.py`); a key follows
CORPUS, FOLDER = "corpus", "folder"  # keys of paths in `ABOUT`; paths in the space are relative to the latter
CHECKPOINT = "checkpoint"  # key of a path in an epoch's metrics
FITTED = "fitted"  # key of the width that fills the budget, which the sampler does not propose
REMOVED = "model_removed"  # fact about a trial whose model was removed by checkpoint retention
PAUSED = "paused"  # fact about an unfinished trial: whether it is paused on request
REQUEST = "request"  # fact about a trial that was added on request: its key, and the number of trials with it
WARM_START = "warm_start"  # in `ABOUT`: finished trials of earlier sweeps, as observations
WIDENED = "widened"  # a wider space that replaces the first one, and the values of earlier trials in it

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it recommends packages that make it a little faster


@dataclass(frozen=True)
class TrialRecord:
    """A trial in the ledger.

    Args:
        number: number in the sweep, from 0.
        params: values of the searched keys, and the width that fills the budget.
        curve: metrics of each epoch in order; `checkpoint` is the path of the epoch's checkpoint.
        about: facts by key: `parameters`, `mlflow_run_id`, `model_removed`.
        reason: reason why the trial ended.
    """

    number: int
    state: TrialStatus
    params: dict[str, Any]
    curve: list[dict[str, Any]]
    about: dict[str, Any]
    reason: str

    @property
    def best(self) -> dict[str, Any] | None:
        """Metrics of the best epoch (of equal ones the last, as in Ray Train); None before the first epoch."""
        return min(reversed(self.curve), key=objective_value, default=None)

    @property
    def checkpoint(self) -> str | None:
        """Path of the best checkpoint that exists on disk; None if there is none."""
        rows = sorted(reversed(self.curve), key=objective_value)
        return next((row["checkpoint"] for row in rows if _exists(row["checkpoint"])), None)

    @property
    def model(self) -> str | None:
        """Path of the trial's model directory (its best checkpoint); None if there is none or it was removed."""
        return None if self.about.get(REMOVED) else self.checkpoint

    @property
    def epochs(self) -> int:
        return len(self.curve)

    @property
    def paused(self) -> bool:
        """Whether the trial is unfinished, and is not trained until somebody asks for it."""
        return self.state == "running" and bool(self.about.get(PAUSED))


class Ledger:
    """The study of one sweep, open for reading and writing.

    Only the sweep's driver, which holds the sweep's lock, changes trials; other processes may write requests to it
    (`steering/requests.py`). Paths in the home, the folder of the SQLite database, are stored relative to it and
    returned as absolute ones: a home may be moved.

    Args:
        file: the SQLite database; None for other databases, in which paths are stored as they are.
    """

    def __init__(self, study: optuna.Study, file: Path | None = None) -> None:
        self.study, self.file = study, file

    @classmethod
    def create(cls, storage: Storage, name: str, about: Mapping[str, Any]) -> Ledger:
        """Makes a new, empty ledger; `about` has the facts that are needed to resume the sweep.

        Raises:
            InputError: a sweep with this name exists.
            LedgerError: the ledger's database cannot be written.
        """
        opened, file = open_storage(storage)
        if name in _names(opened, file):
            raise name_taken(name)
        with suppress(KeyError):  # a process was killed between the next two steps
            optuna.delete_study(study_name=name, storage=opened)
        ledger = cls(optuna.create_study(storage=opened, study_name=name, direction="minimize"), file)
        begun = {"id": uuid.uuid4().hex, **about}
        if CORPUS in begun:
            begun[CORPUS] = ledger._stored(begun[CORPUS])
        ledger.study.set_user_attr(ABOUT, begun)  # in one write, so that a kill leaves all facts or none
        return ledger

    @classmethod
    def open(cls, storage: Storage, name: str) -> Ledger:
        """Opens the ledger of the sweep `name`.

        Raises:
            InputError: there is no such sweep; the message lists all names.
            LedgerError: the ledger's database cannot be read.
        """
        opened, file = open_storage(storage)
        names = _names(opened, file)
        if name not in names:
            raise InputError(f"no sweep named {name}", f"The sweeps are: {', '.join(names) or 'none yet'}.")
        with decoding(file):
            return cls(optuna.load_study(storage=opened, study_name=name), file)

    @staticmethod
    def names(storage: Storage) -> list[str]:
        """Names of all sweeps in a storage, the latest last."""
        return _names(*open_storage(storage))

    @property
    def about(self) -> dict[str, Any]:
        """Facts about the sweep by key, as recorded at its start or updated later."""
        with decoding(self.file):
            of_others = (OF_TRIAL, OF_REQUEST)
            attributes = {key: value for key, value in self.study.user_attrs.items() if not key.startswith(of_others)}
            begun = {key: value for key, value in attributes.pop(ABOUT, {}).items() if key != "id"}
            widened = {key: value for key, value in attributes.pop(WIDENED, {}).items() if key != "params"}
            about = {**begun, **attributes, **widened}
            if self.file:
                places = {key: self._located(about[key]) for key in (CORPUS, FOLDER) if key in about}
                about |= {key: moved_along(place, self.file.parent) for key, place in places.items()}
            return about

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return str(self.study.study_name)

    @property
    def id(self) -> str:
        """Unique identifier of the ledger; a later sweep with the same name has another one."""
        return str(self.study.user_attrs.get(ABOUT, {}).get("id", self.study.study_name))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the metrics that the sweep minimises."""
        return tuple(self.about.get("objectives", ["val_cer"]))

    @property
    def done(self) -> bool:
        """Whether all trials of the sweep have ended."""
        trials = self.frozen()
        return len(trials) >= self.about["trials"] and all(trial.state != TrialState.RUNNING for trial in trials)

    def note(self, key: str, value: Any) -> None:
        """Records a fact about the sweep."""
        self.study.set_user_attr(key, value)

    def widen(self, space: Space, folder: Path, params: Mapping[int, Mapping[str, Any]]) -> None:
        """Replaces the sweep's space in one write; `params` has each trial's values in the new space, by number."""
        about = {"space": space.text, "source": space.source, FOLDER: str(folder)}
        told = {str(number): dict(values) for number, values in params.items()}
        self.study.set_user_attr(WIDENED, {**about, "params": told})

    def trials(self) -> list[TrialRecord]:
        """All trials of the sweep, ordered by number."""
        return self._records(self.frozen())

    def trial(self, number: int) -> TrialRecord:
        """The trial with this number."""
        return self._records([self.frozen()[number]])[0]

    def propose(self, space: Space, feasible: Feasible) -> TrialRecord:
        """Adds the sampler's next feasible proposal as a running trial, with its parameter count.

        Raises:
            InputError: there is no further feasible proposal.
        """
        trials, notes = self.frozen(), self.study.user_attrs
        seen = [observe(trial, _params(trial, notes), space.settings.promotions) for trial in trials]
        # Earlier versions noted a generation in warm-start observations, always 0.
        known = self.about.get(WARM_START, [])
        others = [Observation(**{key: trial[key] for key in trial if key != "generation"}) for trial in known]
        added = sum(REQUEST in trial.user_attrs for trial in trials)
        suggestion, proposal = propose(space, seen, feasible, others, added)
        return self._begin(space, suggestion.params, proposal, {SAMPLER_NOTES: dict(suggestion.notes)})

    def add(
        self, space: Space, values: Mapping[str, Any], proposal: Proposal, request: Mapping[str, Any]
    ) -> TrialRecord:
        """Adds a running trial with the `values` of a proposal; `request` is recorded with it, in the same write."""
        return self._begin(space, values, proposal, {REQUEST: dict(request)})

    def _begin(
        self, space: Space, values: Mapping[str, Any], proposal: Proposal, facts: Mapping[str, Any]
    ) -> TrialRecord:
        trials = self.frozen()
        distributions = {key: each for key, each in distributions_of(space).items() if key in values}
        names = {key: parameter_name(key, each, trials) for key, each in distributions.items()}
        own = {"parameters": proposal.parameters, FITTED: dict(proposal.fitted)}
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params={names[key]: values[key] for key in distributions},
                distributions={names[key]: each for key, each in distributions.items()},
                user_attrs=own | {key: fact for key, fact in facts.items() if fact},
            )
        )
        return self.trial(len(trials))

    def describe(self, number: int, key: str, value: Any) -> None:
        """Records a fact about a trial, as an attribute of the study, since Optuna does not change ended trials."""
        self.study.set_user_attr(f"{OF_TRIAL}{number}:{key}", value)

    def record(self, number: int, row: Mapping[str, Any]) -> bool:
        """Records an epoch's metrics; returns False if the epoch is recorded already."""
        epoch = int(row["epoch"])
        if epoch in self.frozen()[number].intermediate_values:
            return False
        live = self._live(number)
        stored = {**row, CHECKPOINT: self._stored(row[CHECKPOINT])} if CHECKPOINT in row else dict(row)
        live.set_user_attr(f"epoch:{epoch}", json.dumps(stored))
        live.report(objective_value(row), epoch)
        return True

    def finish(self, number: int, state: TrialStatus, reason: str = "") -> None:
        """Ends a trial. The value of a complete trial is its lowest validation CER (or perplexity)."""
        best = self.trial(number).best
        self._live(number).set_user_attr("reason", reason)
        value = objective_value(best) if best and state == "complete" else None
        self.study.tell(number, value, state=OPTUNA_STATES[state])

    def complete_trials(self, epochs: int) -> None:
        """Completes what a killed driver has written by half: epochs, and running trials that have `epochs` epochs."""
        for frozen in (frozen for frozen in self.frozen() if frozen.state == TrialState.RUNNING):
            rows = {int(key[6:]): text for key, text in frozen.user_attrs.items() if key.startswith("epoch:")}
            for epoch in sorted(rows.keys() - frozen.intermediate_values.keys()):
                self._live(frozen.number).report(objective_value(json.loads(rows[epoch])), epoch)
        for trial in self.trials():
            if trial.state == "running" and trial.epochs >= epochs:
                self.finish(trial.number, "complete")

    def _live(self, number: int) -> optuna.Trial:
        return running_trial(self.study, self.frozen()[number])

    def frozen(self) -> list[FrozenTrial]:
        """All trials as Optuna's records, ordered by number; the records must not be changed."""
        with decoding(self.file):
            return self.study.get_trials(deepcopy=False)

    def _records(self, trials: list[FrozenTrial]) -> list[TrialRecord]:
        with decoding(self.file):
            notes = self.study.user_attrs
            found = [_record(trial, notes) for trial in trials]
            for row in (row for trial in found for row in trial.curve):
                if row.get(CHECKPOINT):
                    row[CHECKPOINT] = self._located(row[CHECKPOINT])
            return found

    def _stored(self, path: str | None) -> str | None:
        """Converts a path for the ledger: paths in the home become relative to the home."""
        home = f"{self.file.parent}/" if self.file else None
        return path.removeprefix(home) if path and home else path

    def _located(self, path: str) -> str:
        """Converts a path in the ledger to an absolute path; addresses stay as they are.

        Early ledgers have absolute paths, in which the home's path precedes `sweeps/NAME/trials/...`.
        """
        if self.file is None or "://" in path:
            return path
        _, trials, tail = path.rpartition(f"/sweeps/{self.name}/trials/")
        return os.path.join(self.file.parent, trials[1:] + tail if trials else path)


def _names(storage: optuna.storages.BaseStorage, file: Path | None) -> list[str]:
    with decoding(file):
        return [study.study_name for study in storage.get_all_studies() if ABOUT in study.user_attrs]


def _exists(checkpoint: str | None) -> bool:
    """Whether a checkpoint exists; True for checkpoints on remote storage."""
    return checkpoint is not None and ("://" in checkpoint or Path(checkpoint).is_dir())


def _record(trial: FrozenTrial, notes: Mapping[str, Any]) -> TrialRecord:
    """The trial as a TrialRecord; `notes` are the study's attributes, which include facts about the trial."""
    attributes = dict(trial.user_attrs)
    reason = attributes.pop("reason", "")
    attributes.pop(FITTED, None)
    rows = {key: json.loads(attributes.pop(key)) for key in list(attributes) if key.startswith("epoch:")}
    # An epoch counts once its value is reported, the last step of `Ledger.record`. Optuna reads attributes first, so a
    # value may be seen whose metrics were written in between.
    curve = [rows[f"epoch:{epoch}"] for epoch in sorted(trial.intermediate_values) if f"epoch:{epoch}" in rows]
    own = f"{OF_TRIAL}{trial.number}:"
    about = attributes | {key.removeprefix(own): value for key, value in notes.items() if key.startswith(own)}
    return TrialRecord(trial.number, STATES[trial.state], _params(trial, notes), curve, about, reason)


def _params(trial: FrozenTrial, notes: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values in its sweep's space, the width that fills the budget included; `notes`: study attributes."""
    if widened := notes.get(WIDENED, {}).get("params", {}).get(str(trial.number)):
        return dict(widened)
    own = {name.partition(NEXT_CHOICES)[0]: value for name, value in trial.params.items()}
    return {**own, **trial.user_attrs.get(FITTED, {})}
