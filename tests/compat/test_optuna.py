"""What `compat/optuna.py` and `search_spaces/samplers.py` name is there in the installed Optuna."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from asr_platform.compat import optuna as compat
from search_spaces.samplers import SAMPLERS, SamplerName


def test_a_running_trial_can_be_written_to() -> None:
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(state=TrialState.RUNNING))
    trial = compat.running_trial(study, study.get_trials()[0])
    trial.report(0.5, 1)
    assert study.get_trials()[0].intermediate_values == {1: 0.5}


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
