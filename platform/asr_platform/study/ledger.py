"""The ledger: everything a sweep knows about its trials, in one Optuna study.

The idea: the study is the only record. Ray executes, MLflow shows, and both can be made again from it; the samplers
propose from its content alone (`samplers.py`). So nothing about the search is lost when the process dies.
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
from asr_platform.study.samplers import Feasible, Observation, propose
from asr_platform.study.widening import plain_name, refit, stored_name
from search_spaces.space import Space
from trainables.errors import InputError
from trainables.evaluation.metrics import objective_value

State = Literal["running", "complete", "pruned", "failed"]
STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
OPTUNA_STATES = {name: state for state, name in STATES.items()}
Storage = str | optuna.storages.BaseStorage  # an address, or what is open already
ABOUT = "about"  # what a sweep is begun with; later notes stand beside it and take its place
OF_TRIAL = "trial:"  # what is noted about the trial whose number follows
CORPUS, FOLDER = "corpus", "folder"  # paths in what a sweep is begun with; the latter is where its space's begin
CHECKPOINT = "checkpoint"  # a path in an epoch's row
FITTED = "fitted"  # the width that fills the budget: a value of the trial that the sampler was not asked for
REMOVED = "model_removed"  # noted of a trial whose model is no longer on disk, by intent (thinning.py)
WARM_START = "warm_start"  # in what a sweep is begun with: finished trials of earlier sweeps, as observations
WIDENED = "widened"  # the space that a sweep goes on with, and its earlier trials' values there

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of packages that would make it a little quicker


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger knows it.

    Args:
        number: its number in the sweep, from 0.
        params: the varied keys and their values, the fitted width among them.
        curve: the metrics of each epoch in order; `checkpoint` among them is the path of that epoch's checkpoint.
        about: facts noted once: `parameters`, `mlflow_run_id`, `model_removed`.
        reason: why it ended, in words.
    """

    number: int
    state: State
    params: dict[str, Any]
    curve: list[dict[str, Any]]
    about: dict[str, Any]
    reason: str

    @property
    def best(self) -> dict[str, Any] | None:
        """Metrics of the best epoch, of equal ones the last, which is what Ray keeps; None before the first epoch."""
        return min(reversed(self.curve), key=objective_value, default=None)

    @property
    def checkpoint(self) -> str | None:
        """Path of the best epoch's checkpoint among those whose folder exists, even if files in it are missing."""
        rows = sorted(reversed(self.curve), key=objective_value)
        return next((row["checkpoint"] for row in rows if _exists(row["checkpoint"])), None)

    @property
    def model(self) -> str | None:
        """Path of the trial's model directory, its best checkpoint on disk; None if there is none or it was removed."""
        return None if self.about.get(REMOVED) else self.checkpoint

    @property
    def epochs(self) -> int:
        return len(self.curve)


class Ledger:
    """The study of one sweep, opened for reading and writing.

    One process writes at a time: the sweep's driver, which holds the sweep's lock. Paths in the folder of the ledger's
    SQLite file, which is the home, are stored relative to it and handed out as absolute ones: a home may be moved.

    Args:
        file: the ledger's SQLite database; None where it is none, and paths are stored as they are.
    """

    def __init__(self, study: optuna.Study, file: Path | None = None) -> None:
        self.study, self.file = study, file

    @classmethod
    def create(cls, storage: Storage, name: str, about: Mapping[str, Any]) -> Ledger:
        """A new, empty ledger; `about` is what must be known to go on with the sweep later.

        Raises:
            InputError: the name is taken.
            LedgerError: the ledger's database cannot be written.
        """
        opened, file = open_storage(storage)
        if name in _names(opened, file):
            raise name_taken(name)
        with suppress(KeyError):  # what a kill left between the two steps that follow
            optuna.delete_study(study_name=name, storage=opened)
        ledger = cls(optuna.create_study(storage=opened, study_name=name, direction="minimize"), file)
        begun = {"id": uuid.uuid4().hex, **about}
        if CORPUS in begun:
            begun[CORPUS] = ledger._stored(begun[CORPUS])
        ledger.study.set_user_attr(ABOUT, begun)  # in one write: all of it is known or nothing
        return ledger

    @classmethod
    def open(cls, storage: Storage, name: str) -> Ledger:
        """An existing ledger.

        Raises:
            InputError: there is no sweep of that name; the message lists those there are.
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
        """Names of all sweeps in a storage, the latest last, without studies that hold nothing yet."""
        return _names(*open_storage(storage))

    @property
    def about(self) -> dict[str, Any]:
        """Facts about the sweep by key: those it was begun with, overridden by those noted since."""
        with decoding(self.file):
            attributes = {key: value for key, value in self.study.user_attrs.items() if not key.startswith(OF_TRIAL)}
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
        """Unique identifier of the ledger: a later sweep of the same name has another one."""
        return str(self.study.user_attrs.get(ABOUT, {}).get("id", self.study.study_name))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the metrics that the sweep minimises."""
        return tuple(self.about.get("objectives", ["val_cer"]))

    @property
    def done(self) -> bool:
        """Whether all trials that the sweep was asked for have ended."""
        trials = self.frozen()
        return len(trials) >= self.about["trials"] and all(trial.state != TrialState.RUNNING for trial in trials)

    def note(self, key: str, value: Any) -> None:
        """Notes a fact about the whole sweep."""
        self.study.set_user_attr(key, value)

    def widen(self, space: Space, folder: Path, params: Mapping[int, Mapping[str, Any]]) -> None:
        """Replaces the sweep's space in one write; `params` are the trials' values in the new one, by trial number."""
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
        """Adds the sampler's next proposal that is feasible, as a running trial with its parameter count.

        Raises:
            InputError: the sampler found none.
        """
        trials = self.frozen()
        others = [Observation(**trial) for trial in self.about.get(WARM_START, [])]
        trial, proposal = propose(space, self._in(space, trials), feasible, others)
        names = {key: stored_name(key, each, trials) for key, each in trial.distributions.items()}
        facts = {"parameters": proposal.parameters, FITTED: dict(proposal.fitted)}
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params={names[key]: value for key, value in trial.params.items()},
                distributions={names[key]: each for key, each in trial.distributions.items()},
                user_attrs={**trial.user_attrs, **facts},
            )
        )
        return self.trial(len(trials))

    def _in(self, space: Space, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """The trials as a sampler of `space` takes them: refitted to it if the sweep's space has been widened."""
        if WIDENED not in self.study.user_attrs:
            return trials
        refitted = [refit(trial, record.params, space) for trial, record in zip(trials, self.trials(), strict=True)]
        return [trial for trial in refitted if trial is not None]

    def describe(self, number: int, key: str, value: Any) -> None:
        """Notes a fact about a trial, which may have ended: Optuna closes those, so it stands with the study."""
        self.study.set_user_attr(f"{OF_TRIAL}{number}:{key}", value)

    def record(self, number: int, row: Mapping[str, Any]) -> bool:
        """Records an epoch's metrics; False where that epoch is on record already."""
        epoch = int(row["epoch"])
        if epoch in self.frozen()[number].intermediate_values:
            return False
        live = self._live(number)
        stored = {**row, CHECKPOINT: self._stored(row[CHECKPOINT])} if CHECKPOINT in row else dict(row)
        live.set_user_attr(f"epoch:{epoch}", json.dumps(stored))
        live.report(objective_value(row), epoch)
        return True

    def finish(self, number: int, state: State, reason: str = "") -> None:
        """Ends a trial; its value, unless it failed, is its lowest validation CER (or perplexity)."""
        best = self.trial(number).best
        self._live(number).set_user_attr("reason", reason)
        value = objective_value(best) if best and state == "complete" else None
        self.study.tell(number, value, state=OPTUNA_STATES[state])

    def complete_trials(self, epochs: int) -> None:
        """Completes running trials that have `epochs` epochs: a driver was killed before it could."""
        for trial in self.trials():
            if trial.state == "running" and trial.epochs >= epochs:
                self.finish(trial.number, "complete")

    def _live(self, number: int) -> optuna.Trial:
        return running_trial(self.study, self.frozen()[number])

    def frozen(self) -> list[FrozenTrial]:
        """All trials as Optuna knows them, by number; shared, not to be changed."""
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
        """A path as it is written: relative to the home where it lies there."""
        home = f"{self.file.parent}/" if self.file else None
        return path.removeprefix(home) if path and home else path

    def _located(self, path: str) -> str:
        """A stored path as an absolute one, wherever the home lies now; an address stays as it is.

        Early ledgers have absolute paths. What follows their home's path, in those of checkpoints, is always
        `sweeps/NAME/trials/...`.
        """
        if self.file is None or "://" in path:
            return path
        _, trials, tail = path.rpartition(f"/sweeps/{self.name}/trials/")
        return os.path.join(self.file.parent, trials[1:] + tail if trials else path)


def _names(storage: optuna.storages.BaseStorage, file: Path | None) -> list[str]:
    with decoding(file):
        return [study.study_name for study in storage.get_all_studies() if ABOUT in study.user_attrs]


def _exists(checkpoint: str | None) -> bool:
    """Whether a checkpoint is there to be used; one on remote storage is taken to be."""
    return checkpoint is not None and ("://" in checkpoint or Path(checkpoint).is_dir())


def _record(trial: FrozenTrial, notes: Mapping[str, Any]) -> TrialRecord:
    """A trial with what is noted of it; `notes` are the study's."""
    attributes = dict(trial.user_attrs)
    reason = attributes.pop("reason", "")
    fitted = attributes.pop(FITTED, {})
    rows = {key: json.loads(attributes.pop(key)) for key in list(attributes) if key.startswith("epoch:")}
    # A row counts once its value is reported: the report is the last step of recording an epoch. Optuna reads rows and
    # values one after the other, so a value may be seen whose row was written between the two.
    curve = [rows[f"epoch:{epoch}"] for epoch in sorted(trial.intermediate_values) if f"epoch:{epoch}" in rows]
    own = f"{OF_TRIAL}{trial.number}:"
    about = attributes | {key.removeprefix(own): value for key, value in notes.items() if key.startswith(own)}
    told = notes.get(WIDENED, {}).get("params", {}).get(str(trial.number))
    params = told or {**{plain_name(name): value for name, value in trial.params.items()}, **fitted}
    return TrialRecord(trial.number, STATES[trial.state], params, curve, about, reason)
