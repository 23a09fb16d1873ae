"""A ledger on PostgreSQL: homes of several machines share it, one driver holds a sweep, and it may be away."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import records
import servers

from asr_platform.storage import locks, postgresql
from asr_platform.storage.addresses import Addresses
from asr_platform.storage.database import LedgerError, SharedLedger
from asr_platform.storage.home import Home, RunningError
from asr_platform.study.ledger import Ledger


@pytest.fixture
def homes(tmp_path: Path, database: servers.Postgres) -> list[Home]:
    """Two machines' homes with one new ledger."""
    name = tmp_path.name.replace("-", "_")[:40]
    address = database.create(f"{name}_{os.getpid()}")
    both = [Home(tmp_path / name, Addresses(None, address)) for name in ("here", "there")]
    for home in both:
        home.path.mkdir()
    return both


def test_every_home_reads_the_paths_as_its_own(homes: list[Home]) -> None:
    here, there = homes
    ledger = Ledger.create(here.studies, "small", {**records.ABOUT, "corpus": str(here.path / "corpora" / "x")})
    number = records.add(ledger, "running", [0.5])
    on_storage = "bucket/research/sweeps/small/trials/trial-0000/checkpoint_2"
    ledger.record(number, {**records.row(2, 0.25), "checkpoint": on_storage})
    ledger.record(number, {**records.row(3, 0.2), "checkpoint": str(here.trial("small", 0) / "checkpoint_3")})
    for home in (here, there):
        found = Ledger.open(home.studies, "small")
        assert [row["checkpoint"] for row in found.trial(0).curve[1:]] == [
            str(home.trial("small", 0) / f"checkpoint_{epoch}") for epoch in (2, 3)
        ]
        assert found.about["corpus"] == str(home.path / "corpora" / "x")
    assert Ledger.names(there.studies) == ["small"] and there.begun


def test_one_driver_holds_a_sweep_whatever_its_home(homes: list[Home]) -> None:
    here, there = homes
    with here.lock("small"):
        assert there.holder("small") == here.holder("small") == f"sweep {os.getpid()}"
        with (
            pytest.raises(RunningError, match=f"sweep small is running .process {os.getpid()} on "),
            there.lock("small"),
        ):
            pass
        with there.lock("other"):
            pass
    assert there.holder("small") == ""
    with there.lock("small", "doctor"):
        assert here.holder("small") == f"doctor {os.getpid()}"


def test_a_driver_that_is_killed_leaves_no_lock(homes: list[Home]) -> None:
    here, there = homes
    code = (
        "import sys, time; from pathlib import Path; from asr_platform.storage.home import Home, Addresses\n"
        "with Home(Path(sys.argv[1]), Addresses(None, sys.argv[2])).lock('small'):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", code, here.path, str(here.addresses.ledger)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout and driver.stdout.readline() == "held\n"
        assert there.holder("small") == f"sweep {driver.pid}"
        driver.kill()
    with taken(there, "small"):
        pass


@contextmanager
def taken(home: Home, name: str) -> Iterator[None]:
    """Holds a lock in the block, once the server has noticed the end of its former holder's connection."""
    with ExitStack() as stack:
        for _ in range(100):
            try:
                stack.enter_context(home.lock(name))
                break
            except RunningError:
                threading.Event().wait(0.1)
        else:
            pytest.fail("it is still held")
        yield


def test_a_ledger_that_is_away_for_a_while_is_waited_for(
    homes: list[Home], database: servers.Postgres, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "CHECK_INTERVAL", 0.1)
    proxy = servers.Proxy(database.port)
    address = str(homes[0].addresses.ledger).replace(str(database.port), str(proxy.port))
    home = replace(homes[0], addresses=Addresses(None, address))
    ledger = Ledger.create(home.studies, "small", records.ABOUT)
    with home.lock("small"):
        proxy.close()
        threading.Timer(2, proxy.start).start()
        number = records.add(ledger, "running", [0.5])
        assert ledger.trial(number).epochs == 1
        assert capfd.readouterr().err.count("trying again for 120 s") == 1
        for _ in range(100):  # the lock is taken again as soon as the server answers
            if homes[1].holder("small"):
                break
            threading.Event().wait(0.1)
        assert homes[1].holder("small") == f"sweep {os.getpid()}"
    proxy.close()


def test_a_driver_that_finds_another_in_its_place_ends_without_a_word_to_the_ledger(
    homes: list[Home], database: servers.Postgres
) -> None:
    here, there = homes
    proxy = servers.Proxy(database.port)
    code = (
        "import sys, time; from pathlib import Path; from asr_platform.storage import locks\n"
        "from asr_platform.storage.home import Home, Addresses\n"
        "locks.CHECK_INTERVAL = 0.1\n"
        "try:\n"
        "    with Home(Path(sys.argv[1]), Addresses(None, sys.argv[2])).lock('small'):\n"
        "        print('held', flush=True); time.sleep(600)\n"
        "finally: print('written')"
    )
    address = str(here.addresses.ledger).replace(str(database.port), str(proxy.port))
    words = [sys.executable, "-c", code, here.path, address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stdout and driver.stdout.readline() == "held\n"
        proxy.close()
        with taken(there, "small"):
            proxy.start()
            out, err = driver.communicate(timeout=60)
        assert (driver.returncode, out) == (1, "") and f"sweep small: sweep {os.getpid()}@" in err
    proxy.close()


def test_a_ledger_that_does_not_answer_at_first_is_told_at_once(tmp_path: Path) -> None:
    address = f"postgresql://me@127.0.0.1:{servers.unused_port()}/x"
    with pytest.raises(LedgerError, match=r"postgresql://me@127.0.0.1:.*refused") as error:
        Ledger.names(SharedLedger(address, tmp_path))
    assert "--ledger" in error.value.remedy and postgresql.WAIT_SECONDS > 60
