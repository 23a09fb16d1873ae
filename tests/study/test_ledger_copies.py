"""A sweep's own copy of the ledger is what the ledger has, and a damaged ledger is rebuilt from the copies."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import damage
import pytest
import records
from optuna.storages import RDBStorage
from sqlalchemy import text

from asr_platform.storage.database import DamagedLedgerError, LedgerError, connect, sqlite_address
from asr_platform.storage.home import COPY, STUDIES, Home
from asr_platform.storage.relocation import LOCATIONS
from asr_platform.study.ledger import Ledger
from asr_platform.study.ledger_copies import CopyKeeper, is_sound, keep_copy, restore
from trainables.errors import InputError

NAMES = ("zebra-1", "ant-2", "bee-3")


def told(storage: str, name: str) -> Any:
    """All that Optuna knows of a study, but for the ids of its rows."""
    study = Ledger.open(storage, name).study
    trials = [
        (trial.number, trial.state, trial.params, trial.distributions, trial.values, trial.intermediate_values,
         trial.user_attrs, trial.system_attrs, trial.datetime_start, trial.datetime_complete)
        for trial in study.get_trials()
    ]  # fmt: skip
    return study.user_attrs, study.directions, trials


def copy_of(home: Home, name: str) -> str:
    return sqlite_address(home.sweep(name) / COPY)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty ledger, whose tables take a while to make."""
    home = Home.at(tmp_path_factory.mktemp("tables") / "home")
    assert Ledger.names(home.studies) == []
    return home.path


@pytest.fixture(scope="module")
def three(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sweeps with copies, whose trials have ended in every way or are running."""
    home = Home.at(shutil.copytree(tables, tmp_path_factory.mktemp("three") / "home"))
    for name in NAMES:
        ledger = records.ledger_in(home.path, name)
        for state, cers in (("complete", [0.9, 0.5]), ("pruned", [0.8]), ("failed", []), ("running", [0.7, 0.6])):
            ledger.describe(records.add(ledger, state, cers), "mlflow_run_id", f"run-{name}")  # type: ignore[arg-type]
    for name in NAMES:
        home.sweep(name).mkdir(parents=True)
        with home.lock(name):
            keep_copy(home, name)
    return home.path


@pytest.fixture
def home(three: Path, tmp_path: Path) -> Home:
    return Home.at(shutil.copytree(three, tmp_path / "home"))


# Keeping copies


def test_a_copy_follows_the_ledger(tables: Path, tmp_path: Path) -> None:
    """Whatever happened since the last time: trials begun, epochs, ends, notes."""
    home = Home.at(shutil.copytree(tables, tmp_path / "home"))
    records.ledger_in(home.path, "other")
    ledger = records.ledger_in(home.path)
    home.sweep("small").mkdir(parents=True)
    dice = random.Random(0)
    for step in range(40):
        running = [trial for trial in ledger.trials() if trial.state == "running"]
        what = dice.choice(("begin", "epoch", "epoch", "end", "note", "describe"))
        if what == "begin" or not running:
            ledger.propose(records.space(), records.parameters_of)
        elif what == "epoch":
            trial = dice.choice(running)
            ledger.record(trial.number, records.row(trial.epochs + 1, dice.random()))
        elif what == "end":
            ledger.finish(dice.choice(running).number, dice.choice(("complete", "pruned", "failed")), f"step {step}")
        elif what == "note":
            ledger.note("wall_seconds", step)
        else:
            ledger.describe(0, "model_removed", step)
        if dice.random() < 0.5:
            keep_copy(home, "small")
            assert told(copy_of(home, "small"), "small") == told(home.studies, "small")
    assert Ledger.names(copy_of(home, "small")) == ["small"]
    assert (home.sweep("small") / COPY).stat().st_mode & 0o777 == 0o600


def test_a_driver_copies_what_begins_and_ends(home: Home) -> None:
    """So a restored ledger knows every trial that has a folder."""
    ledger, keeper = Ledger.open(home.studies, "ant-2"), CopyKeeper(home, "ant-2")
    keeper.on_sweep_start(ledger.trials())
    begun = ledger.propose(records.space(), records.parameters_of)
    keeper.on_trial_start(begun)
    assert told(copy_of(home, "ant-2"), "ant-2") == told(home.studies, "ant-2")
    ledger.record(begun.number, records.row(1, 0.5))
    ledger.finish(begun.number, "failed", "it crashed")
    keeper.on_trial_end(ledger.trial(begun.number))
    assert told(copy_of(home, "ant-2"), "ant-2") == told(home.studies, "ant-2")


def test_a_trial_that_has_ended_is_not_copied_again(home: Home) -> None:
    """So the cost does not grow with the sweep."""
    with closing(sqlite3.connect(home.sweep("ant-2") / COPY)) as copy:
        ids = "SELECT trial_intermediate_value_id FROM trial_intermediate_values WHERE trial_id IN ({})"
        ended = "SELECT trial_id FROM trials WHERE state <> 'RUNNING'"
        before = copy.execute(ids.format(ended)).fetchall()
    ledger = Ledger.open(home.studies, "ant-2")
    ledger.finish(3, "complete")
    keep_copy(home, "ant-2")
    with closing(sqlite3.connect(home.sweep("ant-2") / COPY)) as copy:
        after = copy.execute(ids.format(ended)).fetchall()
    assert set(before) < set(after)
    assert told(copy_of(home, "ant-2"), "ant-2") == told(home.studies, "ant-2")


@pytest.mark.parametrize("kind", damage.KINDS)
def test_a_damaged_copy_is_made_anew(home: Home, kind: damage.Damage) -> None:
    kind(home.sweep("ant-2") / COPY)
    keep_copy(home, "ant-2")
    assert told(copy_of(home, "ant-2"), "ant-2") == told(home.studies, "ant-2")
    assert sorted(path.name for path in home.sweep("ant-2").iterdir()) == [COPY, "lock"]


def test_the_copy_of_an_earlier_sweep_of_that_name_is_made_anew(home: Home, tables: Path) -> None:
    shutil.copy(tables / STUDIES, home.path / STUDIES)
    records.add(records.ledger_in(home.path, "ant-2"), "complete", [0.1])
    keep_copy(home, "ant-2")
    assert told(copy_of(home, "ant-2"), "ant-2") == told(home.studies, "ant-2")


@pytest.mark.parametrize("kind", damage.KINDS)
def test_a_damaged_ledger_leaves_the_copy_as_it_was(home: Home, kind: damage.Damage) -> None:
    before = (home.sweep("ant-2") / COPY).read_bytes()
    Ledger.open(home.studies, "ant-2").finish(3, "complete")
    kind(home.path / STUDIES)
    if kind is damage.a_page_of_noise:
        return  # it may be another sweep's
    with pytest.raises(LedgerError):
        keep_copy(home, "ant-2")
    assert (home.sweep("ant-2") / COPY).read_bytes() == before
    assert sorted(path.name for path in home.sweep("ant-2").iterdir()) == [COPY, "lock"]


@pytest.mark.parametrize("locked", ["ledger", "copy"])
def test_a_locked_database_is_waited_for_once(home: Home, locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the copy stays as it was: another one would meet the same lock."""
    Ledger.open(home.studies, "ant-2").finish(3, "complete")
    copy, connections = home.sweep("ant-2") / COPY, []

    def impatient(path: Path) -> sqlite3.Connection:
        connections.append(path)
        return connect(path, timeout=0.1)

    before = copy.read_bytes()
    with closing(connect(home.path / STUDIES if locked == "ledger" else copy)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("asr_platform.study.ledger_copies.connect", impatient)
        with pytest.raises(LedgerError, match="locked"):
            keep_copy(home, "ant-2")
    assert connections == [copy]
    assert copy.read_bytes() == before
    keep_copy(home, "ant-2")
    assert told(copy_of(home, "ant-2"), "ant-2") == told(home.studies, "ant-2")


def test_a_full_disk_is_met_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole new copy would need more room than what has changed."""
    ledger, copy, connections = Ledger.open(home.studies, "ant-2"), home.sweep("ant-2") / COPY, []
    for epoch in range(3, 200):
        ledger.record(3, records.row(epoch, 0.5))
    before = copy.read_bytes()

    def without_room(path: Path) -> sqlite3.Connection:
        connections.append(path)
        database = connect(path)
        database.execute("PRAGMA max_page_count = 1")  # SQLite's own full disk: no page may be added
        return database

    monkeypatch.setattr("asr_platform.study.ledger_copies.connect", without_room)
    with pytest.raises(LedgerError, match="the disk is full"):
        keep_copy(home, "ant-2")
    assert connections == [copy]
    assert copy.read_bytes() == before


# Restoring


def test_processes_that_begin_together_make_one_ledger(tmp_path: Path) -> None:
    """Whole at once: none finds half of its tables."""
    home = Home.at(tmp_path / "home")
    code = "import sys; from asr_platform.study.ledger import Ledger; Ledger.create(*sys.argv[1:3], {}); print('begun')"
    words = [sys.executable, "-c", code, home.studies]
    begun = [subprocess.Popen([*words, name], stdout=subprocess.PIPE, text=True) for name in NAMES]
    assert [process.communicate()[0] for process in begun] == ["begun\n"] * len(NAMES)
    assert set(Ledger.names(home.studies)) == set(NAMES)
    assert sorted(path.name for path in home.path.iterdir()) == [LOCATIONS, STUDIES]


@pytest.mark.parametrize("kind", damage.KINDS)
def test_a_damaged_ledger_is_rebuilt(home: Home, kind: damage.Damage) -> None:
    """Every sweep is as before, in the order of beginning, and goes on as if nothing had happened."""
    before = [told(home.studies, name) for name in NAMES]
    undamaged = shutil.copytree(home.path, home.path.parent / "undamaged")
    kind(home.path / STUDIES)
    for way in (Home.at, Home.existing):
        with pytest.raises(DamagedLedgerError, match=f"{home.path}/{STUDIES}: the ledger is damaged") as error:
            way(home.path)
        assert "platform doctor --repair" in error.value.remedy
    assert not is_sound(home)
    done = restore(home)
    assert done[:3] == [f"restored the sweep {name} from its copy" for name in NAMES]
    assert Home.existing(home.path) == home and is_sound(home) and restore(home) == []
    assert Ledger.names(home.studies) == list(NAMES)
    assert [told(home.studies, name) for name in NAMES] == before
    assert [told(copy_of(home, name), name) for name in NAMES] == before
    assert (home.path / f"{STUDIES}.damaged-1").exists() == (kind is not damage.gone)
    assert (home.path / STUDIES).stat().st_mode & 0o777 == 0o600
    proposed = []
    for place in (home.path, undamaged):
        ledger = Ledger.open(Home(place).studies, "ant-2")
        assert ledger.record(3, records.row(3, 0.5))
        ledger.finish(3, "complete")
        proposed.append(ledger.propose(records.space(), records.parameters_of).params)
    assert proposed[0] == proposed[1]


def test_a_sweep_without_a_copy_is_taken_from_the_damaged_ledger(home: Home) -> None:
    """And one of which nothing can be read is named."""
    before = told(home.studies, "bee-3")
    (home.sweep("bee-3") / COPY).unlink()
    with closing(sqlite3.connect(home.path / STUDIES)) as database:
        database.execute("UPDATE study_user_attributes SET value_json = '{' WHERE study_id = 1")
        database.commit()
    (home.sweep("lost") / "trials").mkdir(parents=True)
    assert restore(home) == [
        "restored the sweep zebra-1 from its copy",
        "restored the sweep ant-2 from its copy",
        "restored the sweep bee-3 from the damaged ledger",
        "lost what the ledger knew of the sweep lost: it has no copy",
        f"moved the damaged ledger to {home.path / STUDIES}.damaged-1",
    ]
    assert told(home.studies, "bee-3") == told(copy_of(home, "bee-3"), "bee-3") == before


def test_a_second_damaged_ledger_does_not_replace_the_first(home: Home) -> None:
    for number in (1, 2):
        (home.path / STUDIES).write_text(f"damaged {number}")
        restore(home)
    assert [(home.path / f"{STUDIES}.damaged-{n}").read_text() for n in (1, 2)] == ["damaged 1", "damaged 2"]


def test_a_write_that_was_begun_in_the_damaged_ledger_goes_with_it(home: Home) -> None:
    """SQLite would apply its journal to the restored one."""
    before = [told(home.studies, name) for name in NAMES]
    damage.another_header(home.path / STUDIES)
    (home.path / f"{STUDIES}-journal").write_bytes(random.Random(0).randbytes(5000))
    restore(home)
    assert [told(home.studies, name) for name in NAMES] == before
    assert not (home.path / f"{STUDIES}-journal").exists()


def test_nothing_is_restored_under_a_driver(home: Home) -> None:
    damage.half_of_it(home.path / STUDIES)
    before = sorted(os.listdir(home.path))
    with home.lock("bee-3"), pytest.raises(InputError, match="sweep bee-3 is running"):
        restore(home)
    assert sorted(os.listdir(home.path)) == before


def test_a_full_disk_leaves_the_damaged_ledger_in_its_place(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    damage.half_of_it(home.path / STUDIES)
    before = sorted(os.listdir(home.path))

    def full(to_storage: RDBStorage, **study: Any) -> None:
        with to_storage.engine.connect() as database:
            database.execute(text("PRAGMA max_page_count = 1"))  # SQLite's own way of saying so
            database.execute(text("CREATE TABLE more (x)"))

    monkeypatch.setattr("optuna.copy_study", full)
    with pytest.raises(LedgerError, match="the disk is full"):
        restore(home)
    assert sorted(os.listdir(home.path)) == before
