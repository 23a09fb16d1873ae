"""A ledger on PostgreSQL that breaks off transactions: everything is recorded, and nothing twice."""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faults
import optuna
import psycopg
import pytest
import records
import servers
from optuna.storages import RDBStorage
from sqlalchemy.pool import NullPool

from asr_platform.compat.patient_storage import REPEATABLE, PatientStorage
from asr_platform.storage import postgresql
from asr_platform.storage import silence as ledger_silence
from asr_platform.storage.database import LedgerError, SharedLedger, open_storage
from asr_platform.study.ledger import Ledger
from asr_platform.study.steering import requests

UNCHANGED = "?sslmode=disable&gssencmode=disable"  # the proxy reads the messages
WIDER = records.SPACE.replace("[char, bpe]", "[char, bpe, unigram]")


@pytest.fixture(scope="module")
def copies(database: servers.Postgres) -> Callable[[], str]:
    """Makes databases with Optuna's tables and no study; returns their addresses."""
    template = "lost"
    RDBStorage(database.create(template), {"poolclass": NullPool})  # open connections would forbid copies
    return lambda: database.create(f"lost_{uuid.uuid4().hex}", template)


@pytest.fixture
def empty(copies: Callable[[], str]) -> str:
    return copies()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "INTERVAL", 0.0)


def opened(address: str) -> PatientStorage:
    storage, _ = open_storage(SharedLedger(address, Path("/")))
    assert isinstance(storage, PatientStorage)
    return storage


def live(storage: PatientStorage) -> None:
    """Writes everything that drivers, and those who ask them, write, and reads it."""
    ledger, space = Ledger.create(storage, "small", {**records.ABOUT, "trials": 3}), records.space()
    ledger.note("limits", {"hours": 1.0})
    first, second = (ledger.propose(space, records.parameters_of) for _ in range(2))
    for row in records.curve([0.9, 0.5]):
        assert ledger.record(first.number, row)
        ledger.record(second.number, row)
    ledger.finish(first.number, "complete")
    ledger.finish(second.number, "pruned", "rung")
    ledger.widen(records.space(WIDER), Path("/"), {0: first.params, 1: second.params})
    third = ledger.add(space, first.params, records.counting(1000), {"key": "a", "trials": 3})
    ledger.finish(third.number, "failed", "MemoryError: ")
    ledger.describe(third.number, "mlflow_run_id", "run")
    request = requests.write(ledger, "pause", {"trial": 2})
    requests.answer(ledger, request, "trial 2 has ended: failed")
    for trial in Ledger.open(storage, "small").trials():
        assert len(list(trial.curve)) == trial.epochs
    assert len(ledger.whole()) == 3
    optuna.create_study(storage=storage, study_name="half")  # of a driver that was killed
    Ledger.create(storage, "half", records.ABOUT)


def told(address: str) -> tuple[Any, ...]:
    """All that a ledger tells, and the number of rows of each of Optuna's tables."""
    storage = opened(address)
    ledger = Ledger.open(storage, "small")
    answers = [(request.kind, request.content, request.answer) for request in requests.read(ledger)]
    values = [(trial.values, trial.intermediate_values, trial.state) for trial in ledger.study.get_trials()]
    with storage.engine.connect() as connection:
        tables = optuna.storages._rdb.models.BaseModel.metadata.sorted_tables
        counts = {table.name: len(connection.execute(table.select()).all()) for table in tables}
    return ledger.about, ledger.trials(), values, answers, Ledger.names(storage), counts


@pytest.fixture(scope="module")
def expected(copies: Callable[[], str]) -> tuple[Any, ...]:
    """Content of a ledger on which the same was done while its connection was never lost."""
    address = copies()
    live(opened(address))
    return told(address)


CHECKED = ("create_new_study", "delete_study", "_create_new_trial", "set_trial_state_values")
METHODS = (*REPEATABLE, *CHECKED)


def cut_calls(storage: PatientStorage, proxy: faults.FaultyProxy, methods: Sequence[str]) -> None:
    """Has the proxy cut the first two calls of methods of the storage, each from its first message on."""
    for name in methods:
        setattr(storage, name, _cut(getattr(storage, name), proxy))


def _cut(method: Callable[..., Any], proxy: faults.FaultyProxy) -> Callable[..., Any]:
    left = 2  # the first makes a row, the second often changes one

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        if proxy.cutting or not left:  # called by another method, which the proxy cuts
            return method(*arguments, **options)
        left -= 1
        with proxy.cut():
            return method(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("lost", "methods"),
    [("message", METHODS), ("answer to COMMIT", METHODS), ("late COMMIT", (*CHECKED, "set_study_user_attr"))],
)
def test_a_connection_may_be_lost_at_any_message(
    lost: faults.Lost, methods: Sequence[str], database: servers.Postgres, empty: str, expected: tuple[Any, ...]
) -> None:
    """Each transaction is cut at its first message, then at its second, and so on up to its COMMIT."""
    proxy = faults.FaultyProxy(database.port, lost)
    storage = opened(empty.replace(str(database.port), str(proxy.port)) + UNCHANGED)
    cut_calls(storage, proxy, methods)
    live(storage)
    proxy.close()
    assert proxy.cuts >= len(methods)
    assert told(empty) == expected


def test_all_that_optuna_does_with_a_database_is_repeated() -> None:
    """But a trial's parameters alone, which the ledger never writes so."""
    of_others = {"create_new_trial", "get_n_trials", "get_trial_params", "get_trial_number_from_id"}
    of_no_database = {
        "check_trial_is_updatable", "get_failed_trial_callback", "get_heartbeat_interval",
        "get_heartbeat_stale_trial_callback", "remove_session",
    }  # fmt: skip
    of_versions = {"upgrade", "get_current_version", "get_head_version", "get_all_versions"}
    public = {name for name, _ in inspect.getmembers(RDBStorage, inspect.isfunction) if not name.startswith("_")}
    assert public - of_others - of_no_database - of_versions - set(METHODS) == {"set_trial_param"}


FULL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON trial_user_attributes FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@contextmanager
def full_disk(address: str) -> Iterator[Callable[[], None]]:
    """Context in which PostgreSQL refuses epochs as on a full disk; yields a function that frees space."""
    connection = psycopg.connect(address, autocommit=True)
    connection.execute(FULL)  # type: ignore[call-overload]
    with connection:
        yield lambda: connection.execute("DROP TRIGGER full_disk ON trial_user_attributes") and None


def test_room_on_a_full_disk_is_waited_for(
    empty: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.create(opened(empty), "small", records.ABOUT)
    trial, tries = ledger.propose(records.space(), records.parameters_of), 0
    with full_disk(empty) as free:

        def pause(seconds: float) -> None:
            nonlocal tries
            tries += 1
            if tries == 3:
                free()

        monkeypatch.setattr(postgresql.time, "sleep", pause)
        assert ledger.record(trial.number, records.row(1, 0.5))
    assert ledger.trial(trial.number).epochs == 1
    assert tries == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{empty}: the database's disk is full, free space on it: could not extend file")
    assert line.endswith("; trying again for 120 s")


def test_a_disk_that_stays_full_is_told_and_what_was_recorded_stays(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "WAIT_SECONDS", 0.0)
    ledger = Ledger.create(opened(empty), "small", records.ABOUT)
    trial = ledger.propose(records.space(), records.parameters_of)
    ledger.record(trial.number, records.row(1, 0.5))
    with full_disk(empty) as free:
        with pytest.raises(LedgerError, match="disk is full, free space on it") as error:
            ledger.record(trial.number, records.row(2, 0.4))
        assert "--resume, once the database has room" in error.value.remedy
        free()
    again = Ledger.open(opened(empty), "small")
    assert again.trial(trial.number).epochs == 1
    assert again.record(trial.number, records.row(2, 0.4))


@contextmanager
def silence(address: str) -> Iterator[Callable[[], None]]:
    """Context in which PostgreSQL takes requests and answers none that reads epochs; yields a function that ends it."""
    with psycopg.connect(address) as connection:
        connection.execute("LOCK TABLE trial_user_attributes IN ACCESS EXCLUSIVE MODE")
        yield connection.rollback


def test_a_ledger_that_falls_silent_is_given_up_and_asked_again(
    empty: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.create(opened(empty), "small", records.ABOUT)
    trial = ledger.propose(records.space(), records.parameters_of)
    monkeypatch.setattr(ledger_silence, "TELL_SECONDS", 0.1)
    monkeypatch.setattr(ledger_silence, "SILENT_SECONDS", 0.5)
    with silence(empty) as end:
        monkeypatch.setattr(postgresql, "time", SimpleNamespace(sleep=lambda seconds: end(), monotonic=time.monotonic))
        assert ledger.record(trial.number, records.row(1, 0.5))
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == f"{empty}: no answer yet; waiting for up to 0 s"
    assert f"{empty}: no answer for 0 s; trying again for 120 s" in lines
    assert Ledger.open(opened(empty), "small").trial(trial.number).epochs == 1


def test_a_ledger_that_stays_silent_is_told(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.create(opened(empty), "small", records.ABOUT)
    trial = ledger.propose(records.space(), records.parameters_of)
    with monkeypatch.context() as patched, silence(empty) as end:
        patched.setattr(ledger_silence, "SILENT_SECONDS", 0.2)
        patched.setattr(postgresql, "WAIT_SECONDS", 0.0)
        with pytest.raises(LedgerError, match=r"no answer for .*") as error:
            ledger.record(trial.number, records.row(1, 0.5))
        assert "--resume" in error.value.remedy
        end()
    assert ledger.record(trial.number, records.row(1, 0.5)), "the ledger is as it was"


def test_a_slow_ledger_is_waited_for_in_silence(
    database: servers.Postgres, empty: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late answer is no fault: nothing is made again, and no statement has a time limit."""
    monkeypatch.setattr(postgresql, "WAIT_SECONDS", 0.0)
    proxy = faults.FaultyProxy(database.port, "nothing", delay=0.005)
    ledger = Ledger.create(
        opened(empty.replace(str(database.port), str(proxy.port)) + UNCHANGED), "small", records.ABOUT
    )
    trial = ledger.propose(records.space(), records.parameters_of)
    assert ledger.record(trial.number, records.row(1, 0.5))
    proxy.close()
    assert Ledger.open(opened(empty), "small").trial(trial.number).epochs == 1
    assert not capfd.readouterr().err
