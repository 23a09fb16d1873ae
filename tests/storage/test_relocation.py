"""A home that is moved or copied goes on as before, and a copy never reaches into the original."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import babbler
import pytest
import records
from click.testing import CliRunner
from found import Found

from asr_platform.cli.main import cli
from asr_platform.storage.home import Home
from asr_platform.storage.relocation import LOCATIONS
from asr_platform.study.ledger import Ledger
from asr_platform.tracking.resolving import resolve_model
from asr_platform.tuning.doctor import Doctor
from trainables.inference.model_files import WEIGHTS

CHAMPION = "models:/small@champion"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A home with a corpus inside, and a sweep of two trials whose best is registered."""
    home = tmp_path_factory.mktemp("original") / "runs q%41?"
    found = Found(home, babbler.write_corpus(home / "corpora" / "babble"))
    found.trial(wrong=2)
    found.trial(wrong=1)
    assert found.end() is not None, found.said
    return found


def leaderboard(home: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(run(home, "leaderboard", "small", "--json"))
    return rows


def run(home: Path, *words: str) -> str:
    ended = CliRunner().invoke(cli, ["--home", str(home), *words], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def check(home: Path, before: Found) -> None:
    """Everything is as in the original, and lies in this home."""
    assert Home.existing(home).path == home
    ledger = Ledger.open(Home(home).studies, "small")
    for trial, former in zip(ledger.trials(), before.ledger.trials(), strict=True):
        assert trial.checkpoint == former.checkpoint.replace(str(before.home.path), str(home))  # type: ignore[union-attr]
        assert Path(trial.checkpoint).is_dir()
    assert ledger.about["corpus"] == str(home / "corpora" / "babble")
    for row in leaderboard(home):
        assert (Path(row["model"]) / WEIGHTS).is_file() and Path(row["model"]).is_relative_to(home)
    assert Doctor(Home(home), "small").audit() == []
    run_id = before.ledger.trial(1).about["mlflow_run_id"]
    for name in (CHAMPION, "models:/small/1", f"runs:/{before.parent}", f"runs:/{run_id}"):
        model = resolve_model(home, name)
        assert model.is_relative_to(home)
        assert (model / WEIGHTS).read_bytes() == (home / "models" / "small" / WEIGHTS).read_bytes()
    scores = run(home, "evaluate", CHAMPION, "--data", str(home / "corpora/babble"), "--split", "dev")
    assert "CER" in scores


def test_a_copy_is_as_the_original_and_stays_apart_from_it(original: Found, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in original.home.path.rglob("*") if path.is_file())
    place = tmp_path / "copy %41"
    shutil.copytree(original.home.path, place)
    check(place, original)
    after = sorted((path, path.stat().st_mtime_ns) for path in original.home.path.rglob("*") if path.is_file())
    assert after == before


def test_a_home_may_be_moved_again_and_back(original: Found, tmp_path: Path) -> None:
    place = tmp_path / "first"
    shutil.copytree(original.home.path, place)
    Home.existing(place)
    for name in ("second", "first"):
        place = place.rename(tmp_path / name)
        check(place, original)
    assert json.loads((place / LOCATIONS).read_text())[-1] == str(place)


def test_a_home_from_before_paths_were_relative(original: Found, tmp_path: Path) -> None:
    """Its ledger has absolute paths, and it does not know where it was."""
    place = tmp_path / "before"
    shutil.copytree(original.home.path, place)
    Home.existing(place)  # MLflow's addresses are now of this place
    (place / LOCATIONS).unlink()
    with closing(sqlite3.connect(place / "studies.db")) as database:
        made_absolute = "UPDATE trial_user_attributes SET value_json = replace(value_json, 'sweeps/', ?)"
        assert database.execute(made_absolute, (f"{place}/sweeps/",)).rowcount > 0
        database.commit()
    place = place.rename(tmp_path / "after")
    check(place, original)


def test_a_store_that_is_named_after_the_move_leads_to_the_model_at_once(
    original: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "copy"
    shutil.copytree(original.home.path, place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Home(place).tracking)
    assert resolve_model(place, CHAMPION).is_relative_to(place)


def test_a_home_is_left_alone_while_one_of_its_sweeps_is_running(original: Found, tmp_path: Path) -> None:
    """Its driver may see it at another path, as in a container."""
    place = tmp_path / "copy"
    shutil.copytree(original.home.path, place)
    before = (place / "mlflow.db").read_bytes()
    with Home(place).lock("small"):
        assert leaderboard(place)
    assert (place / "mlflow.db").read_bytes() == before
    Home.existing(place)
    assert (place / "mlflow.db").read_bytes() != before


def test_a_home_that_cannot_be_written_to_is_read_as_it_is(original: Found, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(original.home.path, place)
    (place / LOCATIONS).unlink()
    (place / LOCATIONS).mkdir()  # nothing can be written there, not even by root
    assert len(leaderboard(place)) == 2


def test_the_store_that_a_sweep_was_told_of_moves_with_the_home_that_it_is_in(tmp_path: Path) -> None:
    """As where MLFLOW_TRACKING_URI named it."""
    home = Home.at(tmp_path / "home")
    records.ledger_in(home.path, options={"tracking_uri": home.tracking})
    elsewhere = "sqlite:////elsewhere/mlflow.db"
    moved = Home.existing((tmp_path / "home").rename(tmp_path / "moved"))
    about = Ledger.open(moved.studies, "small").about
    assert moved.store(about).uri == moved.tracking
    assert moved.store({"options": {"tracking_uri": elsewhere}}).uri == elsewhere


def test_a_corpus_beside_the_home_is_found_where_the_project_was_moved(tmp_path: Path) -> None:
    """And the one that is still at its old place stays the one that is meant."""
    corpus = tmp_path / "project" / "corpora" / "x"
    corpus.mkdir(parents=True)
    home = Home.at(tmp_path / "project" / "runs")
    about = {**records.ABOUT, "corpus": str(corpus), "folder": str(tmp_path / "project")}
    Ledger.create(home.studies, "small", about)
    shutil.copytree(tmp_path / "project", tmp_path / "copy")
    found = {}
    for place in ("copy", "moved"):
        if place == "moved":
            (tmp_path / "project").rename(tmp_path / "moved")
        found[place] = Ledger.open(Home.existing(tmp_path / place / "runs").studies, "small").about["corpus"]
    assert found == {"copy": str(corpus), "moved": str(tmp_path / "moved" / "corpora" / "x")}
    moved = Ledger.open(Home(tmp_path / "moved" / "runs").studies, "small").about
    assert moved["folder"] == str(tmp_path / "moved"), "where the paths in its space begin"
    shutil.rmtree(tmp_path / "moved" / "corpora")
    assert Ledger.open(Home(tmp_path / "moved" / "runs").studies, "small").about["corpus"] == str(corpus)


def test_what_lies_outside_the_home_keeps_its_path(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    ledger = records.ledger_in(tmp_path / "home", corpus="/corpora/x")
    number = records.add(ledger, "running")
    places = ["/checkpoints/1", "s3://bucket/sweeps/small/trials/trial-0000/checkpoint_2", None]
    for epoch, place in enumerate(places, 1):
        ledger.record(number, {**records.row(epoch, 0.5), "checkpoint": place})
    (tmp_path / "home").rename(tmp_path / "moved")
    again = Ledger.open(records.storage_in(tmp_path / "moved"), "small")
    assert [row["checkpoint"] for row in again.trial(number).curve] == places
    assert again.about["corpus"] == "/corpora/x"
