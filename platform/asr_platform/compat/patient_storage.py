"""A storage of Optuna (5.0) whose database may break off any transaction: it is made again, and nothing twice.

Each method of Optuna's storage is one transaction, or reads only. Where the answer to COMMIT was lost, the transaction
may have been made. Attributes and values of epochs may be written again: each has one writer, and equal content. The
other writes are looked for before they are repeated. The lock of a row comes first: a COMMIT that is still under way
to the database is waited for there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import wraps
from typing import Any, Protocol, TypeVar

from optuna.exceptions import DuplicatedStudyError
from optuna.storages._rdb import storage as rdb
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from asr_platform.compat.optuna_storage import STUDY, TRIAL, BulkStorage

Result = TypeVar("Result")
REPEATABLE = (
    "set_study_user_attr", "set_study_system_attr", "set_trial_user_attr", "set_trial_system_attr",
    "set_trial_intermediate_value", "record_heartbeat",
    "get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_study_user_attrs",
    "get_study_system_attrs", "get_all_studies", "get_trial", "get_all_trials", "_get_trials", "get_trial_param",
    "get_trial_user_attrs", "get_trial_system_attrs", "get_trial_id_from_study_id_trial_number", "get_best_trial",
    "_get_best_trial_id", "_get_stale_trial_ids", "attributes", "names",
    "attributes_text", "progress", "without_metrics", "texts", "texts_at", "set_step",
)  # fmt: skip


class Repeat(Protocol):
    """Calls an attempt until the database does not break it off; the attempt is told whether it is repeated."""

    def __call__(self, attempt: Callable[[bool], Result]) -> Result: ...


class PatientStorage(BulkStorage):
    """A storage whose transactions are repeated by `repeat`.

    `set_trial_param`, and trials without a time of their start, which nothing here uses, are not repeated.
    """

    def __init__(self, address: str, options: dict[str, Any], repeat: Repeat) -> None:
        self.repeat = repeat
        super().__init__(address, options)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Makes a study. One that is found at a repetition is this one: who makes a sweep holds its lock."""

        def attempt(again: bool) -> int:
            try:
                return super(PatientStorage, self).create_new_study(directions, study_name)
            except DuplicatedStudyError:
                if not again or study_name is None:
                    raise
                return self.get_study_id_from_name(study_name)

        return self.repeat(attempt)

    def delete_study(self, study_id: int) -> None:
        """Deletes a study; one that is missing at a repetition was deleted before."""

        def attempt(again: bool) -> None:
            with suppress(KeyError) if again else nullcontext():
                super(PatientStorage, self).delete_study(study_id)

        self.repeat(attempt)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        def attempt(again: bool) -> FrozenTrial:
            made = self._made(study_id, template_trial) if again and template_trial else None
            return made or super(PatientStorage, self)._create_new_trial(study_id, template_trial)

        if template_trial is None or template_trial.datetime_start is None:
            return super()._create_new_trial(study_id, template_trial)
        return self.repeat(attempt)

    def _made(self, study_id: int, template: FrozenTrial) -> FrozenTrial | None:
        """The trial that was made of a template, whose start (in microseconds) no other trial of its study has."""
        with rdb._create_scoped_session(self.scoped_session) as session:
            STUDY.find_or_raise_by_id(study_id, session, for_update=True)
        columns = TRIAL.__table__.c
        found = self._read(columns.study_id == study_id, columns.datetime_start == template.datetime_start)
        return found[0] if found else None

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:  # fmt: skip
        def attempt(again: bool) -> bool:
            if again and state.is_finished():
                with rdb._create_scoped_session(self.scoped_session) as session:
                    TRIAL.find_or_raise_by_id(trial_id, session, for_update=True)
                trial = self.get_trial(trial_id)
                if trial.state == state and (values is None or trial.values == list(values)):
                    return True
            return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)

        return self.repeat(attempt)


def _repeating(name: str) -> Callable[..., Any]:
    method = getattr(BulkStorage, name)

    @wraps(method)
    def repeated(self: PatientStorage, *arguments: Any, **options: Any) -> Any:
        return self.repeat(lambda again: method(self, *arguments, **options))

    return repeated


for _name in REPEATABLE:
    setattr(PatientStorage, _name, _repeating(_name))
