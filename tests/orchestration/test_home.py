"""Where runs live: made where it is missing, refused where it cannot be, and each sweep with one driver at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import records

from asr_platform.home import Home
from asr_platform.study import Ledger
from trainables.errors import InputError


def test_a_home_is_made_and_its_places_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.at(Path("deep/mlruns"))
    assert home.path == tmp_path / "deep" / "mlruns"
    assert home.path.is_dir() and list(home.path.iterdir()) == []
    assert home.studies == f"sqlite:///{home.path}/studies.db"
    assert home.tracking == f"sqlite:///{home.path}/mlflow.db"
    places = [home.artifacts, home.sweep("a"), home.model("a")]
    assert [path.relative_to(home.path) for path in places] == [Path("artifacts"), Path("sweeps/a"), Path("models/a")]
    assert Home.at(Path("deep/mlruns")) == home


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(InputError, match=f"{place}: cannot be written to") as error:
            Home.at(place)
        assert "--home" in error.value.remedy


def test_a_folder_that_takes_no_files_is_refused() -> None:
    """/proc is a folder even for root, who may write to all others."""
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    with pytest.raises(InputError, match="/proc: cannot be written to"):
        Home.at(Path("/proc"))


def test_a_home_in_which_nothing_was_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=f"{place}: nothing has been run here") as error:
            Home.existing(place)
        assert "platform --home" in error.value.remedy
    records.ledger_in(tmp_path)
    assert Home.existing(tmp_path) == Home.at(tmp_path)


@pytest.mark.parametrize("name", ["a folder", "50% done", "a&b=c;d", "c#1", "é"])
def test_any_folder_may_be_home(name: str, tmp_path: Path) -> None:
    """The stores' addresses are URLs, in which some characters have meanings."""
    home = Home.at(tmp_path / name)
    Ledger.create(home.studies, "first", {})
    assert Ledger.names(home.studies) == ["first"]
    assert (home.path / "studies.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_question_mark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a question mark in the path"):
        Home.at(tmp_path / "what?")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../a", "a b", "a\n", "-rf", "naïve", "a:1"])
def test_a_name_that_is_no_good_for_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--name") as error:
        Home.at(tmp_path).sweep(name)
    assert "letters, digits" in error.value.remedy


def test_a_sweep_has_one_driver(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    with home.lock("first"):
        with home.lock("second"):
            pass
        with pytest.raises(InputError, match="sweep first is running"), home.lock("first"):
            pass
    with home.lock("first"):
        pass


def test_a_killed_driver_leaves_no_lock(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    code = (
        "import os, pathlib, signal, sys; from asr_platform.home import Home\n"
        "with Home.at(pathlib.Path(sys.argv[1])).lock('first'):\n"
        "    print('locked', flush=True); signal.pause()\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match="is running"), home.lock("first"):
        pass
    os.kill(driver.pid, 9)
    driver.wait()
    with home.lock("first"):
        pass
