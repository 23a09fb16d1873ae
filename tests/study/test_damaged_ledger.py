"""Every command names a ledger that it cannot use, and says what to do; none ends in a traceback."""

from __future__ import annotations

import json
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import damage
import pytest
import records
from click.testing import CliRunner
from place import Run

from asr_platform.cli.main import cli
from asr_platform.storage import database as ledger_storage
from asr_platform.storage.home import STUDIES, Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.ledger_copies import keep_copy
from trainables.errors import InputError

COMMANDS = [
    "sweep right.yaml --data corpus",
    "sweep right.yaml --data corpus --name other",
    "sweep right.yaml --data corpus --warm-start small",
    "sweep --resume small",
    "sweep --resume small longer.yaml",
    "train right.yaml --data corpus",
    "train --from small --data corpus",
    "plan right.yaml --data corpus",
    "leaderboard",
    "leaderboard small --json",
    "status",
    "status small --json",
    "logs small 0",
    "doctor",
    "doctor small",
    "report small",
    "compare small small:1",
    "importances small",
    "confirm small",
    "ui",
    "evaluate models:/small@champion --data corpus --split dev",
    "transcribe runs:/0 good.wav",
    "submit models:/small/1 --data corpus --split test --out s.csv",
    "export models:/small@champion --out exported",
]
"""Every command that reads a ledger."""


@pytest.fixture
def home(place: Path, tmp_path: Path) -> Home:
    """A home with four sweeps, which have copies of their ledgers."""
    copied = Home.at(shutil.copytree(place / "mlruns", tmp_path / "home"))
    for name in Ledger.names(copied.studies):
        copied.sweep(name).mkdir(parents=True, exist_ok=True)
        with copied.lock(name):
            keep_copy(copied, name)
    return copied


@pytest.mark.parametrize("kind", damage.KINDS)
def test_every_command_names_a_damaged_ledger(run: Run, home: Home, kind: damage.Damage) -> None:
    kind(home.path / STUDIES)
    before = sorted(path for path in home.path.rglob("*"))
    for words in COMMANDS:
        ended = run("--home", str(home.path), *words.split())
        assert (ended.code, ended.out) == (2, ""), (words, ended)
        problem, remedy = ended.err.splitlines()
        assert problem.startswith(f"platform: {home.path / STUDIES}: the ledger is damaged ("), words
        assert remedy == "platform doctor --repair restores it from the copies that sweeps keep."
    assert sorted(path for path in home.path.rglob("*")) == before


def test_a_command_that_needs_no_ledger_does_not_ask_for_it(run: Run, home: Home) -> None:
    damage.half_of_it(home.path / STUDIES)
    ended = run("--home", str(home.path), "evaluate", "model", "--data", "corpus", "--split", "dev")
    assert ended.code == 0, ended


@pytest.mark.parametrize("kind", damage.KINDS)
def test_the_doctor_mends_it(run: Run, home: Home, kind: damage.Damage) -> None:
    before = run("--home", str(home.path), "status", "--json").out
    assert len(json.loads(before)) == 4
    kind(home.path / STUDIES)
    ended = run("--home", str(home.path), "doctor", "--repair")
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert lines[:4] == [f"restored the sweep {name} from its copy" for name in ("small", "moved", "changed", "latest")]
    assert lines[-1] == "the ledger is sound: small, moved, changed, latest"
    assert run("--home", str(home.path), "status", "--json").out == before
    assert run("--home", str(home.path), "doctor").out == "the ledger is sound: small, moved, changed, latest\n"
    assert run("--home", str(home.path), "doctor", "--json").out == "[]\n"


def test_wherever_bytes_are_flipped_there_is_no_traceback(home: Home) -> None:
    """What still reads as a ledger is read; the rest is named, and mended."""
    studies, named = home.path / STUDIES, 0
    whole = studies.read_bytes()
    for seed in range(40):
        damage.flip(studies, seed)
        for words in (["status", "--json"], ["leaderboard", "small", "--json"], ["importances", "small"]):
            ended = CliRunner().invoke(cli, ["--home", str(home.path), *words])
            if isinstance(ended.exception, InputError):
                named += str(studies) in ended.exception.problem
            else:
                assert ended.exception is None or isinstance(ended.exception, SystemExit), (seed, words, ended.exc_info)
        studies.write_bytes(whole)
    assert named > 40


# Busy, full


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def test_a_busy_ledger_is_waited_for(home: Home) -> None:
    """For a minute and more, in every process that has it open."""
    ledger = Ledger.open(home.studies, "small")
    with ledger.study._storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() >= 60_000
    with closing(ledger_storage.connect(home.path / STUDIES)) as database:
        assert database.execute("PRAGMA busy_timeout").fetchone()[0] >= 60_000


def test_a_ledger_that_stays_busy_is_named(run: Run, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_storage, "BUSY_SECONDS", 0.1)
    ledger = Ledger.open(home.studies, "small")
    with locked(home.path / STUDIES):
        with pytest.raises(ledger_storage.LedgerError, match="another process has kept the ledger locked"):
            ledger.note("anything", 1)
        for words in COMMANDS:
            ended = run("--home", str(home.path), *words.split())
            assert ended.code == 2 and "another process has kept the ledger locked" in ended.err, (words, ended)
    ledger.note("anything", 1)


FILLS = """
import sys, records
from asr_platform.storage.database import LedgerError
from asr_platform.study.ledger import Ledger
ledger = Ledger.open(sys.argv[1], "small")
number = records.add(ledger, "running")
epoch = 0
try:
    while True:
        epoch += 1
        ledger.record(number, {**records.row(epoch, 0.5), "more": "x" * 10_000})
except LedgerError as error:
    print(epoch - 1, error.problem)
"""


def test_epochs_are_recorded_until_no_file_may_grow_and_stay(home: Home) -> None:
    """As under a quota: what is on record is whole, and goes on once there is room."""
    room = (home.path / STUDIES).stat().st_size + 300_000
    ended = subprocess.run(
        [sys.executable, "-c", FILLS, home.studies],
        cwd=Path(records.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    epochs, _, problem = ended.stdout.strip().partition(" ")
    assert problem.startswith(f"{home.path / STUDIES}: cannot be written or read"), ended
    ledger_storage.check(home.path / STUDIES)
    ledger = Ledger.open(home.studies, "small")
    assert int(epochs) > 10 and ledger.trials()[-1].epochs == int(epochs)
    assert ledger.record(ledger.trials()[-1].number, records.row(int(epochs) + 1, 0.4))


def test_a_full_disk_is_named_and_the_ledger_stays_whole(home: Home) -> None:
    """SQLite itself says so: here the database may not grow."""
    from sqlalchemy import event

    ledger = Ledger.open(home.studies, "small")
    before = ledger.trials()
    engine = ledger.study._storage._backend.engine  # type: ignore[attr-defined]
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))
    engine.dispose()
    with pytest.raises(ledger_storage.LedgerError, match="the disk is full") as error:
        ledger.note("much", "x" * 100_000)
    assert "platform sweep --resume" in error.value.remedy
    assert Ledger.open(home.studies, "small").trials() == before
