"""What `compat/optuna.py` names is there in the installed Optuna."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
from optuna.trial import TrialState

from asr_platform.compat import optuna as compat


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


def columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"SELECT * FROM pragma_table_info('{table}')")]
