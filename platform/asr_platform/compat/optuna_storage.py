"""A storage of Optuna (5.0) that reads thousands of trials in seconds, and a study's attributes by their prefix.

Optuna makes an object of SQLAlchemy's mapper of each row, which is most of the time and memory of reading a large
study (`tests/benchmarks/ledger_growth.py`). `tests/compat/test_optuna.py` compares both ways of reading.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from functools import cache
from json.decoder import scanstring  # type: ignore[attr-defined]  # documented nowhere, in every Python 3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb import storage as rdb
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import String, and_, cast, exists, func, literal, or_, select

if TYPE_CHECKING:
    from optuna import Study
    from sqlalchemy import ColumnElement

CONSTANTS = {"true": True, "false": False, "null": None}  # of JSON
FETCHED_AT_ONCE = 10_000  # rows of a table
LAST_CHARACTER = "\U0010ffff"
NAMED_AT_ONCE = 500  # trials of a query
FINITE = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
Rows = dict[int, list[Any]]  # rows of a table by the id of their trial
TRIAL, STUDY, NOTE = models.TrialModel, models.StudyModel, models.StudyUserAttributeModel
STEP, PARAM, VALUE = models.TrialIntermediateValueModel, models.TrialParamModel, models.TrialValueModel
FACT = models.TrialUserAttributeModel
OF_TRIAL = [TRIAL.__table__.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete")]
TABLES = [  # columns of the other tables, in the order of reading
    [model.__table__.c[name] for name in names]
    for model, names in (
        (STEP, ("step", "intermediate_value", "intermediate_value_type")),
        (FACT, ("key", "value_json")),
        (models.TrialSystemAttributeModel, ("key", "value_json")),
        (PARAM, ("param_id", "param_name", "param_value", "distribution_json")),
        (VALUE, ("objective", "value", "value_type")),
    )
]


class BulkStorage(RDBStorage):
    """Optuna's storage in a database, which reads whole tables at once.

    Attributes:
        home: the home whose paths are relative in a database that is elsewhere; else None.
    """

    home: Path | None = None

    def get_trial(self, trial_id: int) -> FrozenTrial:
        found = self._read(TRIAL.trial_id == trial_id)
        if not found:
            raise KeyError(f"No trial with trial_id {trial_id} exists.")
        return found[0]

    def _get_trials(
        self, study_id: int, states: Container[TrialState] | None, included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:  # fmt: skip
        """Trials of a study in the order of their ids: those included, and those with a greater id."""
        with rdb._create_scoped_session(self.scoped_session) as session:
            STUDY.find_or_raise_by_id(study_id, session)
        later = TRIAL.trial_id > trial_id_greater_than
        wanted = or_(later, TRIAL.trial_id.in_(included_trial_ids)) if included_trial_ids else later
        found = self._read(TRIAL.study_id == study_id, wanted)
        return [trial for trial in found if states is None or trial.state in states]

    def _read(self, *conditions: ColumnElement[bool], metrics: str = "") -> list[FrozenTrial]:
        """Trials that meet all conditions, in the order of their ids.

        States are read first: a trial that has ended is whole. Values of epochs are read before the metrics, which are
        written before them or with them: an epoch that has a value has metrics.

        Args:
            metrics: prefix of attributes that are left out, with the values of steps without one; default: none.
        """
        left_out = {
            FACT.__table__: ~FACT.key.startswith(metrics, autoescape=True),
            STEP.__table__: _has_metrics(metrics),
        }
        with rdb._create_scoped_session(self.scoped_session) as session:
            database = session.connection()
            trials = database.execute(select(*OF_TRIAL).where(*conditions).order_by(TRIAL.trial_id)).all()
            tables: list[Rows] = []
            for columns in TABLES:
                trial_id = columns[0].table.c.trial_id
                query = select(trial_id, *columns).join(TRIAL, TRIAL.trial_id == trial_id).where(*conditions)
                if metrics and columns[0].table in left_out:
                    query = query.where(left_out[columns[0].table])
                rows: Rows = defaultdict(list)
                for part in database.execute(query).partitions(FETCHED_AT_ONCE):
                    for row in part:
                        rows[row[0]].append(row[1:])
                tables.append(rows)
        distribution = cache(json_to_distribution)
        return [_frozen(trial, [rows.pop(trial.trial_id, []) for rows in tables], distribution) for trial in trials]

    def progress(self, study_id: int, ids: Collection[int], after: int | None) -> dict[int, tuple[TrialState, int]]:
        """State and number of values of trials by id: of those with these `ids`, and of those with a later one.

        Args:
            after: id after which trials are later ones; None: there are none.
        """
        later = [] if after is None else [TRIAL.trial_id > after]
        values = select(func.count()).where(STEP.trial_id == TRIAL.trial_id).scalar_subquery()
        query = select(TRIAL.trial_id, TRIAL.state, values).where(TRIAL.study_id == study_id)
        query = query.where(or_(*later, TRIAL.trial_id.in_(ids)))
        with rdb._create_scoped_session(self.scoped_session) as session:
            return {trial_id: (state, count) for trial_id, state, count in session.connection().execute(query).all()}

    def without_metrics(self, study_id: int, ids: Sequence[int], metrics: str) -> list[FrozenTrial]:
        """Trials without the attributes whose keys begin with `metrics`, and without values of steps without one."""
        if len(ids) > NAMED_AT_ONCE:
            wanted = set(ids)
            return [one for one in self._read(TRIAL.study_id == study_id, metrics=metrics) if one._trial_id in wanted]
        return self._read(TRIAL.trial_id.in_(ids), metrics=metrics)

    def texts(self, study_id: int, metrics: str, ids: Sequence[int] | None = None) -> dict[int, dict[int, str]]:
        """Attributes `metrics` and a step of all trials, or of those with these ids, in JSON by id and step."""
        query = select(FACT.trial_id, FACT.key, FACT.value_json).join(TRIAL, TRIAL.trial_id == FACT.trial_id)
        query = query.where(TRIAL.study_id == study_id, self._begins(FACT.key, metrics))
        return self._texts(query if ids is None else query.where(FACT.trial_id.in_(ids)), metrics)

    def texts_at(self, steps: Mapping[int, Sequence[int]], metrics: str) -> dict[int, dict[int, str]]:
        """Attributes `metrics` and a step in JSON, by id and step; `steps` has the ids for each step."""
        found: dict[int, dict[int, str]] = {}
        for step, ids in steps.items():
            for start in range(0, len(ids), NAMED_AT_ONCE):
                query = select(FACT.trial_id, FACT.key, FACT.value_json).where(FACT.key == f"{metrics}{step}")
                found |= self._texts(query.where(FACT.trial_id.in_(ids[start : start + NAMED_AT_ONCE])), metrics)
        return found

    def _texts(self, query: Any, metrics: str) -> dict[int, dict[int, str]]:
        found: dict[int, dict[int, str]] = defaultdict(dict)
        with rdb._create_scoped_session(self.scoped_session) as session:
            for part in session.connection().execute(query).partitions(FETCHED_AT_ONCE):
                for trial_id, key, text in part:
                    found[trial_id][int(key[len(metrics) :])] = text
        return dict(found)

    def set_step(self, trial_id: int, step: int, value: float, key: str, fact: Any) -> None:
        """Reports a value of a step, and sets an attribute of the trial, in one transaction."""
        with rdb._create_scoped_session(self.scoped_session) as session:
            self._set_trial_attr_without_commit(session, FACT, trial_id, key, fact)
            self._set_trial_intermediate_value_without_commit(session, trial_id, step, value)

    def attributes(self, study_id: int, prefix: str = "", without: Iterable[str] = ()) -> dict[str, Any]:
        """Attributes of a study whose keys begin with `prefix`, and with none of the prefixes `without`."""
        query = select(NOTE.key, NOTE.value_json).where(NOTE.study_id == study_id)
        query = query.where(self._begins(NOTE.key, prefix)) if prefix else query
        for other in without:
            query = query.where(~self._begins(NOTE.key, other))
        with rdb._create_scoped_session(self.scoped_session) as session:
            STUDY.find_or_raise_by_id(study_id, session)
            return {key: decoded(text) for key, text in session.connection().execute(query).all()}

    def attributes_text(self, study_id: int, prefix: str) -> str:
        """Keys and values of a study's attributes whose keys begin with `prefix`, as one text: it tells of changes."""
        query = select(func.aggregate_strings(NOTE.key + NOTE.value_json, "\n")).where(NOTE.study_id == study_id)
        query = query.where(self._begins(NOTE.key, prefix))
        with rdb._create_scoped_session(self.scoped_session) as session:
            return session.connection().execute(query).scalar() or ""

    def _begins(self, key: Any, prefix: str) -> ColumnElement[bool]:
        """Whether a key begins with a prefix; SQLite finds such keys by their index, for which LIKE is no use."""
        if self.engine.dialect.name == "sqlite":
            return and_(key >= prefix, key < prefix + LAST_CHARACTER)
        return key.startswith(prefix, autoescape=True)  # other databases may order keys by a language

    def names(self, key: str) -> list[str]:
        """Names of the studies that have the attribute `key`, in the order of their making."""
        query = select(STUDY.study_name).join(NOTE, NOTE.study_id == STUDY.study_id).where(NOTE.key == key)
        with rdb._create_scoped_session(self.scoped_session) as session:
            return list(session.scalars(query.order_by(STUDY.study_id)))


def _has_metrics(prefix: str) -> ColumnElement[bool]:
    """Whether the trial of a step has an attribute `prefix` and the step."""
    key = literal(prefix) + cast(STEP.step, String)
    return exists().where(and_(FACT.trial_id == STEP.trial_id, FACT.key == key))


def _frozen(trial: Any, parts: Sequence[list[Any]], distribution: Callable[[str], BaseDistribution]) -> FrozenTrial:
    """A trial, given as a row of `OF_TRIAL`, with its rows in `TABLES`."""
    steps, attributes, system, params, values = parts
    special = STEP.stored_repr_to_intermediate_value
    params.sort()
    distributions = {name: distribution(text) for _, name, _, text in params}
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        values=[VALUE.stored_repr_to_value(*value) for _, *value in sorted(values)] or None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params={name: distributions[name].to_external_repr(value) for _, name, value, _ in params},
        distributions=distributions,
        user_attrs={key: decoded(text) for key, text in attributes},
        system_attrs={key: json.loads(text) for key, text in system},
        intermediate_values={step: value if kind is FINITE else special(value, kind) for step, value, kind in steps},
        trial_id=trial.trial_id,
    )


def decoded(text: str) -> Any:
    """Content of a JSON text.

    Most texts are strings, such as the metrics of epochs, or facts that are true: they take half the time without the
    decoder's search for what surrounds them.
    """
    if text in CONSTANTS:
        return CONSTANTS[text]
    if text[0] == '"':
        content, end = scanstring(text, 1)
        if end == len(text):
            return content
    return json.loads(text)


def bulk_storage(study: Study) -> BulkStorage | None:
    """The storage of a study behind Optuna's cache; None if it is none that reads whole tables."""
    storage = getattr(study._storage, "_backend", study._storage)
    return storage if isinstance(storage, BulkStorage) else None


def study_attributes(study: Study, prefix: str = "", without: Sequence[str] = ()) -> dict[str, Any]:
    """Attributes of a study whose keys begin with `prefix`, and with none of the prefixes `without`."""
    if storage := bulk_storage(study):
        return storage.attributes(study._study_id, prefix, without)
    # `study.user_attrs` is a deep copy of all of them, which takes several times as long as JSON there and back.
    found = study._storage.get_study_user_attrs(study._study_id)
    wanted = [key for key in found if key.startswith(prefix) and not key.startswith(tuple(without))]
    return {key: json.loads(json.dumps(found[key])) for key in wanted}


def study_text(study: Study, prefix: str) -> str | None:
    """Text of a study's attributes whose keys begin with `prefix`: it tells whether they changed; None: unknown."""
    storage = bulk_storage(study)
    return storage.attributes_text(study._study_id, prefix) if storage else None


def set_step(study: Study, trial_id: int, step: int, value: float, key: str, fact: Any) -> None:
    """Sets an attribute of a trial and reports the value of a step: where the storage can, in one transaction."""
    if storage := bulk_storage(study):
        storage.set_step(trial_id, step, value, key, fact)
        return
    study._storage.set_trial_user_attr(trial_id, key, fact)
    study._storage.set_trial_intermediate_value(trial_id, step, value)


def study_names(storage: BaseStorage, key: str) -> list[str]:
    """Names of the studies that have the attribute `key`, in the order of their making."""
    if isinstance(storage, BulkStorage):
        return storage.names(key)
    return [study.study_name for study in storage.get_all_studies() if key in study.user_attrs]


def open_current(address: str, options: dict[str, Any]) -> BulkStorage:
    """A storage whose tables are known to be whole and of the revision `SCHEMA`.

    Optuna's version manager would find the same, and import Alembic and all migrations for it: a quarter of a second,
    a third of what it takes to read a sweep.

    Args:
        options: options of SQLAlchemy's engine.
    """
    manager = rdb._VersionManager
    rdb._VersionManager = lambda *_: None  # type: ignore[assignment, misc]
    try:
        return BulkStorage(address, options, skip_compatibility_check=True, skip_table_creation=True)
    finally:
        rdb._VersionManager = manager  # type: ignore[misc]
