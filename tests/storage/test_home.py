"""Where runs live: made where it is missing, refused where it cannot be, and each sweep with one driver at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import records
from hypothesis import given
from hypothesis import strategies as st
from place import Run

from asr_platform.storage.database import database_file, make_database, sqlite_address
from asr_platform.storage.home import Home
from asr_platform.storage.paths import folder_size, plain_name, where_runs_live
from asr_platform.storage.relocation import LOCATIONS
from asr_platform.study.ledger import Ledger
from trainables.errors import InputError


def test_a_home_is_made_and_its_places_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.at(Path("deep/mlruns"))
    assert home.path == tmp_path / "deep" / "mlruns"
    assert home.path.is_dir() and [path.name for path in home.path.iterdir()] == [LOCATIONS]
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


@pytest.mark.parametrize(
    "name", ["a folder", "50% done", "q%41", "feature%2Fasr", "a&b=c;d", "c#1", "what?x=1", "{SCHEMA_VERSION}", "é\n"]
)
def test_any_folder_may_be_home(name: str, tmp_path: Path) -> None:
    """The stores' addresses are URLs, in which some characters have meanings."""
    (tmp_path / "qA").mkdir()
    home = Home.at(tmp_path / name)
    Ledger.create(home.studies, "first", {})
    assert Ledger.names(home.studies) == ["first"]
    assert (home.path / "studies.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"qA", name}
    assert list((tmp_path / "qA").iterdir()) == []


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_an_address_names_the_file_that_it_was_made_from(name: str) -> None:
    path = Path("/") / name / "studies.db"
    address = sqlite_address(path)
    assert database_file(address) == path
    assert address.format(SCHEMA_VERSION=1) == address, "Optuna fills in what is in braces"


def test_a_path_that_is_not_utf_8_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the working directory has such a name."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    monkeypatch.chdir(place)
    for way in (Home.at, Home.existing):
        for path in (place, Path("mlruns")):
            with pytest.raises(InputError, match=r"caf\ufffd.*: a path that is not UTF-8"):
                way(path)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("place", ["s3://bucket/runs", "gs://bucket", "file:///tmp/x"])
def test_an_address_is_no_home(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for way in (where_runs_live, lambda place: Home.at(Path(place))):
        with pytest.raises(InputError, match="an address, not a path"):
            way(place)
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_users_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert where_runs_live("~/runs") == tmp_path / "runs"
    monkeypatch.setenv("ASR_PLATFORM_HOME", "~")
    assert where_runs_live() == tmp_path
    assert where_runs_live("./~") == Path("~")


def test_a_tilde_is_expanded_in_every_path_of_the_command_line(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves it as it is where it does not begin a word: --data=~/corpus."""
    monkeypatch.setenv("HOME", str(place))
    out = tmp_path / "s.csv"
    ended = run("submit", "~/model", "--data=~/corpus", "--split", "test", f"--out={out}")
    assert ended.code == 0 and out.is_file(), ended
    assert run("--home=~/mlruns", "leaderboard", "small").code == 0
    for words in (("plan", "~/wrong.yaml", "--data=~/corpus"), ("train", "~/wrong.yaml", "--data=~/corpus")):
        assert run(*words).err.startswith(f"platform: {place}/wrong.yaml: 3 mistakes")
    assert "one of the recordings" in run("transcribe", "~/model", "~/good.wav", f"--out={place}/good.wav").err
    assert not (place / "~").exists()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask, and also where a person, or git, made the folder."""
    before = os.umask(0)
    try:
        (tmp_path / "made").mkdir(mode=0o755)
        for name in ("made", "new"):
            home = Home.at(tmp_path / name)
            records.ledger_in(home.path)
            make_database(home.tracking)
            make_database(sqlite_address(tmp_path / name / "deep" / "store.db"))
    finally:
        os.umask(before)
    for name in ("made", "new"):
        assert mode_of(tmp_path / name) == 0o700
        for file in ("studies.db", "mlflow.db", "deep/store.db"):
            assert mode_of(tmp_path / name / file) == 0o600, file


@pytest.mark.parametrize("shared", [0o775, 0o2755, 0o1777], ids=["group-writable", "setgid", "for all"])
def test_a_home_that_is_shared_on_purpose_keeps_its_modes(shared: int, tmp_path: Path) -> None:
    """One that everybody may read was perhaps not meant to be."""
    home = Home.at(tmp_path)
    records.ledger_in(home.path)
    make_database(home.tracking)
    databases = [tmp_path / "studies.db", tmp_path / "mlflow.db"]
    for folder_before, folder_after, database_after in ((shared, shared, 0o664), (0o755, 0o700, 0o600)):
        tmp_path.chmod(folder_before)
        for database in databases:
            database.chmod(0o664)
        Home.at(tmp_path)
        assert mode_of(tmp_path) == folder_after
        assert [mode_of(database) for database in databases] == [database_after] * 2


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


def test_sweeps_that_begin_together_get_names_of_their_own(tmp_path: Path) -> None:
    """A name is taken while its sweep is being started, and for good once the sweep is on record."""
    home = Home.at(tmp_path)

    def begun() -> list[str]:
        return Ledger.names(home.studies)

    with ExitStack() as starting:
        first, second = (starting.enter_context(home.lock_new(None, "données (2)", begun)) for _ in range(2))
        assert (first, second) == ("donnees-2-1", "donnees-2-2")
        records.ledger_in(tmp_path, first)
        with pytest.raises(InputError, match="sweep donnees-2-2 is running"), home.lock_new(second, "", begun):
            pass
    with home.lock_new(None, "données (2)", begun) as third:
        assert third == "donnees-2-2", "the second was never begun"
    with pytest.raises(InputError, match="sweep donnees-2-1 exists"), home.lock_new(first, "", begun):
        pass


@given(st.text())
def test_any_space_has_a_name_that_a_sweep_may_have(stem: str) -> None:
    assert Home(Path("/home")).sweep(f"{plain_name(stem)}-1").parent == Path("/home/sweeps")


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("digits", "digits"),
        ("my space (copy)", "my-space-copy"),
        ("données", "donnees"),
        ("東京", "sweep"),
        ("v1.2_b", "v1.2_b"),
    ],
)
def test_the_name_stays_as_near_to_the_spaces_as_it_can(stem: str, name: str) -> None:
    assert plain_name(stem) == name


def test_files_that_vanish_count_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    assert folder_size(tmp_path) == 8
    assert folder_size(tmp_path / "absent") == 0
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        Path(path).unlink()  # the moment between listing and asking
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    assert folder_size(tmp_path) == 0


def test_a_killed_driver_leaves_no_lock(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    code = (
        "import os, pathlib, signal, sys; from asr_platform.storage.home import Home\n"
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
