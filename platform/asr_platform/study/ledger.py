"""The ledger: the record of a sweep and its trials, in one Optuna study.

The study is the only record: Ray runs trials, MLflow shows them, and samplers propose from the study alone
(`samplers.py`). So nothing about the search is lost when the process is killed.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from asr_platform.compat.optuna_storage import set_step, study_attributes, study_names, study_text
from asr_platform.storage.database import SharedLedger, decoding, open_storage
from asr_platform.storage.home import name_taken
from asr_platform.storage.relocation import moved_along
from asr_platform.study.trials.reading import (
    FITTED,
    OF_TRIAL,
    REASON,
    STATES,
    Facts,
    RecordReader,
    by_trial,
    params_in,
)
from asr_platform.study.trials.record import CHECKPOINT as CHECKPOINT
from asr_platform.study.trials.record import PAUSED as PAUSED
from asr_platform.study.trials.record import REMOVED as REMOVED
from asr_platform.study.trials.record import TrialRecord as TrialRecord
from asr_platform.study.trials.record import TrialStatus as TrialStatus
from asr_platform.study.trials.stored import EPOCH, StoredTrials
from trainables.errors import InputError
from trainables.evaluation.metrics import objective_value
from trainables.folders import cached_corpus

if TYPE_CHECKING:  # spaces are read with pydantic, for which commands that read trials need not wait
    from asr_platform.study.samplers import Feasible
    from search_spaces.space import Proposal, Space

OPTUNA_STATES = {name: state for state, name in STATES.items()}
Storage = str | optuna.storages.BaseStorage | SharedLedger  # an address, or an open storage
ABOUT = "about"  # facts from the start of a sweep, which later ones override
OF_REQUEST = "request:"  # prefix of what other processes ask of the driver (`steering/requests.py`); a key follows
CORPUS, FOLDER = "corpus", "folder"  # keys of paths in `ABOUT`; paths in the space are relative to the latter
REQUEST = "request"  # fact about a trial that was added on request: its key, and the number of trials with it
WARM_START = "warm_start"  # in `ABOUT`: finished trials of earlier sweeps, as observations
WIDENED = "widened"  # a wider space that replaces the first one, and the values of earlier trials in it

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it recommends packages that make it a little faster


class Ledger:
    """The study of one sweep, open for reading and writing.

    Only the sweep's driver, which holds the sweep's lock, changes trials; other processes may write requests to it
    (`steering/requests.py`). Paths in the home, such as the folder of the SQLite database, are stored relative to it
    and returned as absolute ones: a home may be moved, and homes on several machines may have one ledger.

    Args:
        file: the SQLite database; None for other databases.
        home: the home; default: the folder of `file`. None: paths are stored as they are.
    """

    def __init__(self, study: optuna.Study, file: Path | None = None, home: Path | None = None) -> None:
        self.study, self.file, self.home = study, file, home or (file.parent if file else None)
        self._stored = StoredTrials(study)
        self._reader = RecordReader(self._metrics, self._located)
        self._notes: dict[str, tuple[str | None, dict[str, Any]]] = {}  # as read last, by prefix, and their text
        self._facts: tuple[dict[str, Any], Facts] = {}, {}  # notes on trials, and the same by trial

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
        ledger = cls(
            optuna.create_study(storage=opened, study_name=name, direction="minimize"),
            file,
            getattr(opened, "home", None),
        )
        begun = {"id": uuid.uuid4().hex, **about}
        if CORPUS in begun:
            begun[CORPUS] = ledger._relative(begun[CORPUS])
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
            return cls(optuna.load_study(storage=opened, study_name=name), file, getattr(opened, "home", None))

    @staticmethod
    def names(storage: Storage) -> list[str]:
        """Names of all sweeps in a storage, the latest last."""
        return _names(*open_storage(storage))

    @property
    def about(self) -> dict[str, Any]:
        """Facts about the sweep by key, as recorded at its start or updated later."""
        with decoding(self.file):
            attributes = study_attributes(self.study, without=(OF_TRIAL, OF_REQUEST))
            begun = {key: value for key, value in attributes.pop(ABOUT, {}).items() if key != "id"}
            widened = {key: value for key, value in attributes.pop(WIDENED, {}).items() if key != "params"}
            about = {**begun, **attributes, **widened}
            if self.home:
                places = {key: self._located(about[key]) for key in (CORPUS, FOLDER) if key in about}
                about |= {key: moved_along(place, self.home) for key, place in places.items()}
                copy = cached_corpus(about.get("corpus_hash", ""))
                if CORPUS in about and not os.path.exists(about[CORPUS]) and copy.is_dir():
                    about[CORPUS] = str(copy)
            return about

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return str(self.study.study_name)

    @property
    def id(self) -> str:
        """Unique identifier of the ledger; a later sweep with the same name has another one."""
        return str(self.notes(ABOUT).get(ABOUT, {}).get("id", self.study.study_name))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the metrics that the sweep minimises."""
        return tuple(self.about.get("objectives", ["val_cer"]))

    @property
    def done(self) -> bool:
        """Whether all trials of the sweep have ended."""
        trials = self.frozen()
        return len(trials) >= self.about["trials"] and all(trial.state != TrialState.RUNNING for trial in trials)

    def notes(self, prefix: str) -> dict[str, Any]:
        """Facts whose keys begin with `prefix`, as recorded."""
        with decoding(self.file):
            return study_attributes(self.study, prefix)

    def _kept_notes(self, prefix: str) -> dict[str, Any]:
        """Facts whose keys begin with `prefix`, decoded again only if one has changed; they must not be changed."""
        text = study_text(self.study, prefix)
        known = self._notes.get(prefix)
        if known is None or text is None or text != known[0]:
            known = self._notes[prefix] = text, self.notes(prefix)
        return known[1]

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
        frozen, notes = self.frozen(), self._kept_notes(OF_TRIAL)
        if notes != self._facts[0]:
            self._facts = notes, by_trial(notes)
        return self._records(frozen, self._facts[1])

    def trial(self, number: int) -> TrialRecord:
        """The trial with this number."""
        return self._records([self._frozen(number)], by_trial(self.notes(f"{OF_TRIAL}{number}:")))[0]

    def propose(self, space: Space, feasible: Feasible) -> TrialRecord:
        """Adds the sampler's next feasible proposal as a running trial, with its parameter count.

        Raises:
            InputError: there is no further feasible proposal.
        """
        from asr_platform.study.samplers import SAMPLER_NOTES, Observation, observe, propose

        trials, widened = self.frozen(), self._widened()
        seen = [observe(trial, params_in(trial, widened), space.settings.promotions) for trial in trials]
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
        from asr_platform.study.samplers import distributions_of, parameter_name

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
        known = self._frozen(number)
        if epoch in known.intermediate_values:
            return False
        stored = {**row, CHECKPOINT: self._relative(row[CHECKPOINT])} if CHECKPOINT in row else dict(row)
        text, value = json.dumps(stored), objective_value(row)
        set_step(self.study, known._trial_id, epoch, value, f"{EPOCH}{epoch}", text)
        self._stored.add_epoch(number, epoch, value, text)
        return True

    def finish(self, number: int, state: TrialStatus, reason: str = "") -> None:
        """Ends a trial. The value of a complete trial is its lowest validation CER (or perplexity)."""
        best = self.trial(number).best
        self.study._storage.set_trial_user_attr(self._frozen(number)._trial_id, REASON, reason)
        value = objective_value(best) if best and state == "complete" else None
        self.study.tell(number, value, state=OPTUNA_STATES[state])

    def complete_trials(self, epochs: int) -> None:
        """Completes what a killed driver has written by half: epochs, and running trials that have `epochs` epochs."""
        with decoding(self.file):
            half_recorded = self._stored.half_recorded()
        for trial_id, rows in half_recorded.items():
            for epoch in sorted(rows):
                value = objective_value(json.loads(rows[epoch]))
                self.study._storage.set_trial_intermediate_value(trial_id, epoch, value)
        for trial in self.trials():
            if trial.state == "running" and trial.epochs >= epochs:
                self.finish(trial.number, "complete")

    def frozen(self) -> list[FrozenTrial]:
        """All trials as Optuna's records, ordered by number; they must not be changed.

        Of the metrics of epochs, they have those of the best epoch alone (`whole` has all).
        """
        with decoding(self.file):
            return self._stored.all()

    def whole(self) -> list[FrozenTrial]:
        """All trials as Optuna's records, ordered by number, with everything that is recorded of them."""
        with decoding(self.file):
            return self.study.get_trials(deepcopy=False)

    def _frozen(self, number: int) -> FrozenTrial:
        """The trial with this number as Optuna's record, like those of `frozen`; other trials are not read."""
        with decoding(self.file):
            return self._stored.one(number)

    def _metrics(self, trial: FrozenTrial, epochs: Sequence[int]) -> list[str]:
        with decoding(self.file):
            return self._stored.metrics(trial, epochs)

    def _records(self, trials: list[FrozenTrial], facts: Facts) -> list[TrialRecord]:
        with decoding(self.file):
            return self._reader.records(trials, facts, self._widened())

    def _widened(self) -> dict[str, dict[str, Any]]:
        """Values of earlier trials in a wider space, by number."""
        return dict(self._kept_notes(WIDENED).get(WIDENED, {}).get("params", {}))

    def _relative(self, path: str | None) -> str | None:
        """Converts a path for the ledger: paths in the home or on its storage become relative to the home."""
        if path is None or self.home is None or "://" in path:
            return path
        relative = path.removeprefix(f"{self.home}/")
        _, trials, tail = relative.rpartition(f"/sweeps/{self.name}/trials/")
        return trials[1:] + tail if trials else relative

    def _located(self, path: str) -> str:
        """Converts a path in the ledger to an absolute path; addresses stay as they are.

        Early ledgers have absolute paths, in which the home's path precedes `sweeps/NAME/trials/...`.
        """
        if self.home is None or "://" in path:
            return path
        _, trials, tail = path.rpartition(f"/sweeps/{self.name}/trials/")
        return os.path.join(self.home, trials[1:] + tail if trials else path)


def _names(storage: optuna.storages.BaseStorage, file: Path | None) -> list[str]:
    with decoding(file):
        return study_names(storage, ABOUT)
