"""What `compat/optuna.py` and `search_spaces/samplers.py` name is there in the installed Optuna."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from asr_platform.compat import optuna as compat
from asr_platform.compat.optuna_storage import BulkStorage, study_names
from search_spaces.samplers import SAMPLERS, SamplerName


def test_trials_and_notes_are_read_as_optuna_reads_them(tmp_path: Path) -> None:
    """Trials of every state, with every kind of value, and notes whose keys have the wildcards of SQL."""
    address = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(storage=optuna.storages.RDBStorage(address), study_name="one")
    optuna.create_study(storage=address, study_name="other").add_trial(optuna.create_trial(value=1.0))
    distributions: dict[str, Any] = {
        "x": FloatDistribution(1e-4, 1, log=True), "kind": CategoricalDistribution(["a", None, 2]),
        "n": IntDistribution(1, 9),
    }  # fmt: skip
    for state, value in {TrialState.RUNNING: None, TrialState.COMPLETE: 0.25, TrialState.FAIL: None}.items():
        for kind, steps in {"a": {}, None: {2: 0.5, 1: math.inf, 3: -math.inf}}.items():
            params = {"x": 0.1, "kind": kind, "n": 3} if steps else {}
            used = {key: distributions[key] for key in params}
            study.add_trial(
                optuna.create_trial(
                    state=state,
                    value=value,
                    params=params,
                    distributions=used,
                    intermediate_values=steps,
                    user_attrs={"epoch:1": '{"a": 1}', "tree": {"b": [1, None]}},
                    system_attrs={"c": 0.1},
                )
            )
    for key, fact in {"trial:1:a": 1, "trial:11:a": {"b": None}, "trial_1": "é", "%": [2]}.items():
        study.set_user_attr(key, fact)
    optunas, own = optuna.storages.RDBStorage(address), BulkStorage(address)
    assert own.get_all_trials(study._study_id) == optunas.get_all_trials(study._study_id)
    ids = [trial._trial_id for trial in study.get_trials()]
    assert [own.get_trial(one) for one in ids] == [optunas.get_trial(one) for one in ids]
    arguments = study._study_id, [TrialState.RUNNING, TrialState.FAIL], {ids[0], ids[-1]}, ids[3]
    assert own._get_trials(*arguments) == optunas._get_trials(*arguments)
    notes = optunas.get_study_user_attrs(study._study_id)
    assert own.attributes(study._study_id) == notes
    for prefix in ("trial:1:", "trial_", "%", "other"):
        begun = {key: fact for key, fact in notes.items() if key.startswith(prefix)}
        assert own.attributes(study._study_id, prefix) == begun
        assert own.attributes(study._study_id, without=[prefix]) == {
            key: fact for key, fact in notes.items() if key not in begun
        }
    assert own.names("%") == ["one"] == study_names(optunas, "%")


def test_what_is_not_there_is_missed(tmp_path: Path) -> None:
    storage = BulkStorage(f"sqlite:///{tmp_path}/studies.db")
    for read in (storage.get_trial, storage.get_all_trials, storage.attributes):
        with pytest.raises(KeyError):
            read(1)


def test_a_database_has_these_tables(tmp_path: Path) -> None:
    optuna.create_study(storage=f"sqlite:///{tmp_path}/studies.db", study_name="one")
    with closing(sqlite3.connect(tmp_path / "studies.db")) as database:
        found = {
            name: columns(database, name) for (name,) in database.execute("SELECT name FROM sqlite_master").fetchall()
        }
        assert database.execute(f"SELECT count(*) FROM {compat.LAST_TABLE}").fetchone() == (1,)
    with_rows = {name for name, named in found.items() if named}
    assert with_rows == {*compat.STUDY_TABLES, *compat.TRIAL_TABLES, *compat.VERSION_TABLES}
    assert all("study_id" in found[name] for name in compat.STUDY_TABLES)
    assert all("trial_id" in found[name] for name in compat.TRIAL_TABLES)


def test_a_new_database_has_the_revision_of_tables_that_is_read_without_a_check(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/studies.db")
    assert storage.get_current_version() == storage.get_head_version() == compat.SCHEMA


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.notes])
def test_a_sampler_notes_what_it_reads_later_under_its_prefix(name: SamplerName) -> None:
    sampler = SAMPLERS[name]
    assert sampler.optuna and sampler.notes
    study = optuna.create_study(sampler=getattr(optuna.samplers, sampler.optuna)(population_size=2, seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    noted = [{key for key in trial.system_attrs if key.startswith(sampler.notes)} for trial in study.get_trials()]
    assert all(f"{sampler.notes}generation" in keys for keys in noted)


def columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"SELECT * FROM pragma_table_info('{table}')")]
