"""Sweeps in Python: what is right is what the command prints, what is wrong is refused in the same words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from place import Run

import asr_platform
from asr_platform import InputError, Sweep
from asr_platform.cli.main import cli
from asr_platform.inference.loaded_model import LoadedModel, load_model
from asr_platform.notebook.inputs import read_space
from search_spaces.reader import load_space
from trainables import errors


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("ASR_PLATFORM_HOME", raising=False)


def test_the_package_offers_them_without_importing_anything_heavy() -> None:
    """Workers import it too."""
    heavy = "{'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'numpy'} & set(sys.modules)"
    code = f"import sys, asr_platform; print({heavy}); from asr_platform import InputError; print({heavy})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n" * 2
    assert asr_platform.InputError is errors.InputError
    assert all(hasattr(asr_platform, name) for name in asr_platform.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'sweeep'"):
        asr_platform.sweeep  # noqa: B018


def test_a_model_is_loaded_without_ray_and_mlflow() -> None:
    code = "import sys; from asr_platform import load_model; print({'ray', 'mlflow', 'optuna'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_the_leaderboard_is_the_commands(run: Run) -> None:
    rows = json.loads(run("leaderboard", "small", "--json").out)
    sweep = Sweep.open("small")
    board = sweep.leaderboard()
    varied = list(rows[0]["params"])
    assert list(board.columns) == [key for key in rows[0] if key != "params"] + varied
    assert board["trial"].tolist() == [row["trial"] for row in rows] == [1, 0]
    assert board["val_cer"].tolist() == [0.25, 0.5]
    for key in varied:
        assert board[key].tolist() == [row["params"].get(key) for row in rows]
    assert sweep.best == rows[0]


def test_a_sweep_without_a_name_is_the_latest(monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path) -> None:
    """In the home that the environment names, as for the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASR_PLATFORM_HOME", str(place / "mlruns"))
    latest = Sweep.open()
    assert (latest.name, len(latest.leaderboard())) == ("latest", 0)
    with pytest.raises(InputError, match="no trial of the sweep latest has finished an epoch"):
        latest.best  # noqa: B018
    with pytest.raises(InputError, match="the sweep latest has not ended with a model"):
        latest.model  # noqa: B018


@pytest.mark.parametrize("command", sorted(cli.commands.keys() - {"schema", "completion"}))
def test_every_command_has_a_name_in_python(command: str) -> None:
    """Except those for editors and shells."""
    name = {"sweep": "start"}.get(command, command.replace("-", "_"))
    assert any(hasattr(place, name) for place in (asr_platform, Sweep, LoadedModel))


def test_status_logs_and_the_audit_are_the_commands(run: Run) -> None:
    sweep = Sweep.open("small")
    assert same(sweep.status(), run("status", "small", "--json").out)
    assert same(Sweep.overview().to_dict("records"), run("status", "--json").out)
    folder = sweep.home.trial("small", 0)
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("epoch 1: val CER 50.00%\n")
    try:
        printed = run("logs", "small", "0").out
        assert sweep.logs(0) == printed == "epoch 1: val CER 50.00%\ntrial 0 pruned: rung at epoch 1\n"
    finally:
        shutil.rmtree(folder.parent)
    rows = json.loads(run("doctor", "small", "--json").out)
    assert rows and same(sweep.doctor().to_dict("records"), json.dumps(rows))


def same(found: Any, printed: str) -> bool:
    """Whether a value is what a command printed as JSON; in columns of a DataFrame, None is NaN."""
    return bool(json.loads(json.dumps(found, default=str).replace("NaN", "null")) == json.loads(printed))


def test_a_report_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    page = Sweep.open("small").report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert "Sweep small" in page.read_text() and "platform --home" in page.read_text()


def test_the_rules_of_a_competition_are_the_commands(run: Run) -> None:
    printed = run("check", "model", "--rules", "hw4p2", "--json").out
    assert same(load_model("model").check("hw4p2"), printed)


def test_a_corpus_is_made_and_inspected(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Names of options are those of the command; lists and dictionaries are written as it reads them."""
    recordings = tmp_path / "recordings"
    for speaker in ("ann", "ben", "7"):
        (recordings / "train" / speaker).mkdir(parents=True)
        for number in range(2):
            shutil.copy("good.wav", recordings / "train" / speaker / f"{number}.wav")
            (recordings / "train" / speaker / f"{number}.txt").write_text("A Cab")
    given = {"text": "lower", "jobs": 1, "dev_speakers": ["7"], "dev_share": None}
    made = asr_platform.prepare("folder", recordings, out=tmp_path / "corpus", **given)
    assert (made["train_on"], made["validate_on"], made["text"]["case"]) == (["train"], ["dev"], "lower")
    assert {name: split["speakers"] for name, split in made["splits"].items()} == {"train": 2, "dev": 1}
    assert f"corpus: {tmp_path / 'corpus'}" in capfd.readouterr().out
    told = asr_platform.inspect(tmp_path / "corpus", out=tmp_path / "page.html")
    assert same(told, run("inspect", str(tmp_path / "corpus"), "--json").out)
    assert (tmp_path / "page.html").is_file()


def test_a_plan_is_the_commands(run: Run) -> None:
    printed = json.loads(run("plan", "widths.yaml", "--data", "corpus", "--trials", "4", "--no-profile", "--json").out)
    assert json.loads(json.dumps(Sweep.plan("widths.yaml", "corpus", trials=4, profile=False))) == printed


def test_a_dictionary_is_a_space_like_its_file() -> None:
    tree = yaml.safe_load(Path("right.yaml").read_text())
    one, other = read_space(tree), load_space("right.yaml")
    assert (one.base, one.vary, one.settings, one.start) == (other.base, other.vary, other.settings, other.start)


SPACE = {"vary": {"optimizer.lr": {"log": [1e-4, 1e-2]}}}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: Sweep.open("smal"), "no sweep named smal"),
        (lambda: Sweep.open("small", home="absent"), "absent: nothing has been run here"),
        (lambda: Sweep.start("nosuch", "corpus"), "nosuch: no such search space"),
        (lambda: Sweep.start("right.yaml", "absent"), "absent: no corpus here"),
        (lambda: Sweep.start("right.yaml", "corpus", name="small"), "sweep small exists"),
        (lambda: Sweep.start({"vary": {"optimizer.lr": {"log": [0, 1]}}}, "corpus"), "vary.optimizer.lr: low > 0"),
        (lambda: Sweep.start({**SPACE, "trials": Path("x")}, "corpus"), "holds more than plain values"),
        (lambda: Sweep.start(SPACE, "corpus", trials=0, epochs=2.5), r"trials: .* 0; epochs: .* 2\.5"),
        (lambda: Sweep.start(SPACE, "corpus", max_hours=-1), "max_hours: .* -1"),
        (lambda: Sweep.start(SPACE, "corpus", gpus_per_worker=-1), "gpus_per_worker: .* -1"),
        (lambda: Sweep.plan(SPACE, "corpus", max_concurrent=True), "max_concurrent: must be a number, but got True"),
        (lambda: Sweep.open("small").resume(trials="3"), "trials: must be a number, but got '3'"),
        (lambda: Sweep.open("small").resume("longer.yaml"), "longer.yaml: epochs: a sweep cannot change it"),
        (lambda: Sweep.open("small").compare(7, 0), "no trial 7 in the sweep small"),
        (lambda: Sweep.open("small").compare(0, 1), "small:0: no errors of its validation are kept"),
        (lambda: Sweep.open("small").compare(0, 1, data="corpus"), "--data and --split go together"),
        (lambda: Sweep.open("small").confirm(top=0), "top: .* 0"),
        (lambda: Sweep.open("small").confirm(method="gready"), "decoding.method"),
        (lambda: Sweep.open("moved").confirm(), "gone: no corpus here"),
        (lambda: Sweep.open("moved").doctor(), "gone: no corpus here"),
        (lambda: Sweep.open("small").logs(7), "no trial 7 in the sweep small"),
        (lambda: Sweep.open("small").ui(host="no.such.host"), "no free port on no.such.host"),
        (lambda: Sweep.open("small").watch(port=1, host="192.0.2.1"), "port 1 of 192.0.2.1"),
        (lambda: Sweep.train(None, "corpus"), "train needs a source or an origin"),
        (lambda: Sweep.train("right.yaml", "corpus", epochs=0), "epochs: .* 0"),
        (lambda: Sweep.train("right.yaml", "corpus", trials=2), "trials: unknown"),
        (lambda: Sweep.train(None, "corpus", origin="small:7"), "no trial 7 in the sweep small"),
        (lambda: asr_platform.prepare("floder", "corpus", out="new"), "No such command 'floder'"),
        (lambda: asr_platform.prepare("fsdd", "corpus", out="new", dev_shaer=0.1), "No such option '?--dev-shaer"),
        (lambda: asr_platform.prepare("fsdd", "corpus", out="new", train=0), "0 is not in the range"),
        (lambda: asr_platform.inspect("absent"), "absent: no corpus here"),
    ],
)
def test_what_is_wrong_is_refused(call: Callable[[], Any], problem: str, place: Path) -> None:
    """And nothing new is there."""
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=problem):
        call()
    assert {path for path in place.rglob("*") if path.name != "lock"} <= {*before, place / "mlruns/sweeps"} | {
        place / "mlruns/sweeps" / name for name in ("small", "latest")
    }
