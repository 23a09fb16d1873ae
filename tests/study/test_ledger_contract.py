"""What any storage of a ledger must hold: a driver may die between any two writes, and the next one goes on as if not.

In each test a driver lives through a sweep; it is killed at one write after the other, and another one finishes.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import records
import servers
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.pool import NullPool

from asr_platform.compat.optuna_storage import BulkStorage
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import Ledger, TrialStatus
from asr_platform.study.steering import acts, requests
from search_spaces.space import Proposal

WRITES = (
    "create_new_study", "set_study_user_attr", "create_new_trial", "_create_new_trial",
    "set_trial_user_attr", "set_trial_intermediate_value", "set_step", "set_trial_state_values",
)  # fmt: skip
"""Of storages; the cache that Optuna puts before SQLite adds trials by the method of its own."""
# How the sweep's trials go, by number: curve and end.
LIVES: list[tuple[list[float], TrialStatus]] = [([0.9, 0.5], "complete"), ([0.8], "pruned"), ([], "failed")]
WIDER = records.SPACE.replace("[char, bpe]", "[char, bpe, unigram]")

Open = Callable[[], BaseStorage]


class KilledError(BaseException):
    """Nothing may catch it: a process that is killed says nothing."""


def killed_at(storage: BaseStorage, write: int) -> BaseStorage:
    """A storage whose n-th write, counted from 0, is its user's last moment."""
    left = [write]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return function(*args, **options)

        return call

    for name in WRITES:
        if hasattr(storage, name):
            setattr(storage, name, counted(getattr(storage, name)))
    return storage


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without a study; its tables take a while to make."""
    path = tmp_path_factory.mktemp("empty") / "studies.db"
    RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def template(database: servers.Postgres) -> str:
    """Name of a PostgreSQL database with tables and no study, of which copies are made."""
    RDBStorage(database.create("contract"), {"poolclass": NullPool})  # open connections would forbid copies
    return "contract"


@pytest.fixture(params=["sqlite", "journal", "memory", "postgresql"])
def empty(request: pytest.FixtureRequest, tables: Path, tmp_path: Path) -> Callable[[], Open]:
    """Makes empty storages of one kind, each as a function that opens it as a new process would."""
    made, opened = 0, list[RDBStorage]()
    postgresql = request.param == "postgresql"
    server = request.getfixturevalue("database") if postgresql else None
    template = request.getfixturevalue("template") if postgresql else ""

    def make() -> Open:
        nonlocal made
        made += 1
        while opened:  # a server has room for a hundred connections
            opened.pop().engine.dispose()
        path = tmp_path / f"{made}.db"
        known = {"skip_compatibility_check": True, "skip_table_creation": True}
        if request.param == "sqlite":
            shutil.copy(tables, path)
            return lambda: BulkStorage(f"sqlite:///{path}", **known)
        if server:
            address = server.create(f"contract_{uuid.uuid4().hex}", template)

            def open_postgresql() -> BaseStorage:
                opened.append(BulkStorage(address, **known))
                return opened[-1]

            return open_postgresql
        if request.param == "journal":
            return lambda: JournalStorage(JournalFileBackend(str(path)))
        kept = InMemoryStorage()
        return lambda: _unpatched(kept)

    return make


def _unpatched(storage: InMemoryStorage) -> InMemoryStorage:
    """Memory has no second opening: the same storage, with its own writes again."""
    for name in WRITES:
        storage.__dict__.pop(name, None)
    return storage


def drive(storage: BaseStorage) -> None:
    """A driver's life: begins the sweep or goes on with it, up to its end."""
    begun = "small" in Ledger.names(storage)
    ledger = Ledger.open(storage, "small") if begun else Ledger.create(storage, "small", {**records.ABOUT, "trials": 3})
    space = records.space()
    if "mlflow_run_id" not in ledger.about:
        ledger.note("mlflow_run_id", "parent")
    for number, (cers, end) in enumerate(LIVES):
        if number == 2:  # the sweep goes on with a wider space
            space = records.space(WIDER)
            if ledger.about["space"] != WIDER:
                ledger.widen(space, Path("/"), {trial.number: trial.params for trial in ledger.trials()[:2]})
        trials = ledger.trials()
        trial = trials[number] if number < len(trials) else ledger.propose(space, records.parameters_of)
        for row in records.curve(cers)[trial.epochs :]:
            assert ledger.record(number, row)
        if trial.state == "running":
            ledger.finish(number, end, f"it was {end}")
        if "mlflow_run_id" not in trial.about:
            ledger.describe(number, "mlflow_run_id", f"run-{number}")


def told(ledger: Ledger) -> tuple[Any, ...]:
    """All that a ledger tells, and what Optuna makes of it."""
    values = [(trial.values, trial.intermediate_values, trial.state) for trial in ledger.study.get_trials()]
    return ledger.about, ledger.trials(), values


def test_a_driver_may_die_before_any_write(empty: Callable[[], Open]) -> None:
    """The next one finds a ledger that is whole so far, and brings it to where the first would have come."""
    uninterrupted = empty()
    drive(uninterrupted())
    expected = told(Ledger.open(uninterrupted(), "small"))
    assert [trial.state for trial in expected[1]] == [end for _, end in LIVES]
    write = 0
    while True:
        storage = empty()
        try:
            drive(killed_at(storage(), write))
            break  # it lived
        except KilledError:
            pass
        reopened = storage()
        if "small" in Ledger.names(reopened):
            so_far = Ledger.open(reopened, "small").trials()
            for trial, whole in zip(so_far, expected[1], strict=False):
                assert trial.params == whole.params
                assert trial.curve == whole.curve[: trial.epochs]
                assert trial.state in ("running", whole.state)
        drive(reopened)
        assert told(Ledger.open(reopened, "small")) == expected, f"killed before write {write}"
        write += 1
    epochs = sum(len(cers) for cers, _ in LIVES)
    of_epoch = 1 if isinstance(storage(), BulkStorage) else 2  # its metrics and value, in one transaction or not
    expected_writes = 2 + 2 + 4 * len(LIVES) + of_epoch * epochs
    assert write == expected_writes, "the sweep, its notes, its trials' four each, their epochs"


def test_doing_it_all_again_changes_nothing(empty: Callable[[], Open]) -> None:
    storage = empty()
    drive(storage())
    before = told(Ledger.open(storage(), "small"))
    drive(storage())
    ledger = Ledger.open(storage(), "small")
    assert not ledger.record(0, records.row(2, 0.1))
    assert told(ledger) == before


def steer(storage: BaseStorage) -> None:
    """A driver's life that is steered: it acts on all that it is asked for."""
    acts.act_on_pending(Ledger.open(storage, "small"), Made())


class Made(Feasibility):
    """All that is asked for is feasible, with a made-up parameter count."""

    def __init__(self) -> None:
        self.space = records.space()

    def trial(self, values: Mapping[str, Any]) -> Proposal:
        return records.counting(1000)


def test_a_driver_may_die_before_any_write_about_a_request(empty: Callable[[], Open]) -> None:
    """The next one does what was asked for, and nothing twice: each killed one is asked the same."""
    write, expected = -1, None
    while True:
        storage = empty()
        ledger = Ledger.create(storage(), "small", {**records.ABOUT, "trials": 3})
        records.add(ledger, "running", [0.5])
        records.add(ledger, "running")
        values = {"tokenizer.kind": "char", "model.d_model": 32, "model.dropout": 0.125, "optimizer.lr": 0.003}
        for kind, content in (
            ("pause", {"trial": 0}), ("stop", {"trial": 1}), ("add", {"values": values}), ("unpause", {"trial": 0}),
            ("change", {"trials": 7, "limits": {"hours": 2.0}}), ("add", {"values": values | {"model.d_model": 64}}),
        ):  # fmt: skip
            requests.write(ledger, kind, content)  # type: ignore[arg-type]
        lived = False
        try:
            steer(killed_at(storage(), write) if write >= 0 else storage())
            lived = True
        except KilledError:
            steer(storage())
        ended = Ledger.open(storage(), "small")
        trials = [(trial.params, trial.state, trial.paused, trial.reason) for trial in ended.trials()[1:]]
        found = trials, ended.about, [request.answer for request in requests.read(ended)]
        expected = expected or found
        assert found == expected, f"killed before write {write}"
        if lived and write >= 0:
            break
        write += 1
    assert ended.about["trials"] == 8 and len(trials) == 3 and write > 10
