"""The command line: what is right is printed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import records
from click.testing import CliRunner
from command import OTHERS, PLATFORM
from place import Ended, Run
from test_mistakes import manifest

from asr_platform import Sweep
from asr_platform.analysis.bootstrap import METHOD, ConfidenceInterval
from asr_platform.analysis.learning import REMEDIES
from asr_platform.cli import main as cli
from asr_platform.cli import sweeps
from asr_platform.storage.home import Home, trial_name
from asr_platform.tuning.sweep_run import Outcome
from trainables.data.corpus import Corpus

# Packages whose import takes a quarter of a second or more.
SLOW = {"torch", "ray", "mlflow", "alembic", "pandas", "pyarrow", "scipy", "sklearn", "plotly"}
# Those that are not slow, but add up to a fifth of the time of a command that reads a sweep, which needs none of them.
NEEDLESS = {"pydantic", "yaml", "jinja2", "rich.progress", "urllib.request", "optuna_dashboard", "matplotlib"}


def test_the_leaderboard_for_machines(run: Run) -> None:
    ended = run("leaderboard", "small", "--json")
    assert (ended.code, ended.err) == (0, "")
    first, second = json.loads(ended.out)
    keys = [
        "trial",
        "val_cer",
        "val_cer_interval",
        "parameters",
        "epochs",
        "state",
        "note",
        "tied",
        "params",
        "mlflow_run_id",
        "model",
        "model_removed",
    ]
    assert list(first) == list(second) == keys
    assert (first["trial"], first["state"], first["val_cer"], first["epochs"]) == (1, "complete", 0.25, 2)
    assert (second["trial"], second["state"], second["val_cer"], second["epochs"]) == (0, "pruned", 0.5, 1)
    assert first["model"] == second["model"] is None, "their checkpoints are not there"
    assert first["parameters"] == 1000 * first["params"]["model.d_model"]


def test_the_leaderboard_for_people(run: Run) -> None:
    """Without a name, that of the latest sweep: which has no trial yet."""
    shown = run("leaderboard", "small")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[:3] for line in shown.out.splitlines() if "%" in line] == [
        ["1", "1", "25.00%"],
        ["2", "0", "50.00%"],
    ]
    latest = run("leaderboard")
    assert (latest.code, latest.err) == (0, "")
    assert "%" not in latest.out


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a sweep that has intervals and a failure whose reason few encodings can show."""
    home = Home.at(tmp_path_factory.mktemp("loud"))
    ledger = records.ledger_in(home.path, corpus="gone", corpus_hash="0")
    for number, cer in enumerate((0.25, 0.5)):
        records.add(ledger, "complete", [cer])
        (home.sweep("small") / "errors").mkdir(parents=True, exist_ok=True)
        records.errors_of([number, 0, 1]).save(home.sweep("small") / "errors" / f"{trial_name(number)}.json")
    records.add(ledger, "failed", reason="ValueError: caf\udce9 \U0001f600")
    return home.path


@pytest.mark.parametrize("words", ["leaderboard", "status small", "compare small:0 small:1", "report --out {page}"])
@pytest.mark.parametrize(("encoding", "shown", "line"), [
    ("latin-1", "latin-1", "-" * 20), ("ascii", "utf-8", "\u2500" * 20), ("utf-8", "utf-8", "\u2500" * 20),
])  # fmt: skip
def test_a_terminal_of_any_encoding(
    encoding: str, shown: str, line: str, words: str, loud: Path, tmp_path: Path
) -> None:
    """What it cannot show is escaped: intervals, lines of tables and a failure's reason end no command."""
    done = subprocess.run(
        [PLATFORM, "--home", loud, *words.format(page=tmp_path / "page.html").split()], capture_output=True,
        check=False, env={**OTHERS, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    printed = done.stdout.decode(shown)
    if words == "leaderboard":
        assert line in printed
        face = "\U0001f600" if shown == "utf-8" else "\\ud83d\\ude00"
        assert f"trial 2 failed: ValueError: caf\\udce9 {face}" in printed


@pytest.mark.parametrize("words", ["leaderboard", "status", "status small", "compare small:0 small:1"])
def test_what_reads_a_sweep_imports_nothing_slow(words: str, loud: Path) -> None:
    """Commands that read a sweep do not wait for the import of a large package."""
    code = "import sys; from asr_platform.cli.main import cli; cli.main(standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--home", loud, *words.split()],
        capture_output=True,
        check=True,
        text=True,
        errors="replace",
    )
    modules = set(done.stdout.splitlines()[-1].split())
    assert "optuna.storages._rdb.storage" in modules, "the sweep was read"
    assert not modules & (SLOW | NEEDLESS)
    assert not {module for module in modules if module.startswith(("search_spaces.", "trainables.config"))}


def test_requests_import_nothing_slow() -> None:
    """A request for a pause or an end reaches the driver at once, also on a machine that trains with all its cores."""
    code = "import sys; import asr_platform.study.steering.asking; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not SLOW & set(done.stdout.split())


def test_a_corpus_for_machines(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "made"
    ended = run("prepare", "manifest", str(manifest(tmp_path, 1.0)), "--out", str(out), "--jobs", "1", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["corpus"], found["hash"]) == (str(out), Corpus.open(out).hash)
    assert {name: split["utterances"] for name, split in found["splits"].items()} == {"train": 3, "dev": 1}
    assert found["splits"]["train"]["seconds"] == pytest.approx(3.0, abs=0.1)


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == Ended(0, f"asr-platform {version('asr-platform')}\n", "")


def test_how_sweeps_stand(run: Run) -> None:
    """All of them, none of which a driver holds; one of them in full."""
    for words in (("status",), ("status", "small")):
        shown = run(*words)
        assert (shown.code, shown.err) == (0, "")
        assert "small" in shown.out and "stopped" in shown.out
    found = json.loads(run("status", "--json").out)
    assert [one["sweep"] for one in found] == ["small", "moved", "changed", "latest"]
    assert json.loads(run("status", "small", "--json").out) == found[0]
    assert found[0]["trials"] == {
        "asked": 20, "begun": 2, "running": 0, "waiting": 0, "paused": 0, "complete": 1, "pruned": 1, "failed": 0,
    }  # fmt: skip
    assert found[0]["best"] == {"trial": 1, "val_cer": 0.25}


def test_a_note_on_a_trial(run: Run, place: Path) -> None:
    """The leaderboard, status and report have the note on a trial; the report has all of it."""
    text = "too **slow**:\na <b>second</b> line, and more than a table has room for"
    ended = run("note", "small", "0", text)
    assert (ended.code, ended.out, ended.err) == (0, f"trial 0: {text}\n", "")
    assert "too **slow**: a <b>second</b> line, and…" in run("leaderboard", "small").out
    assert [row["note"] for row in json.loads(run("leaderboard", "small", "--json").out)] == [None, text]
    assert f"note on 0:      {' '.join(text.split())}" in run("status", "small").out
    assert json.loads(run("status", "small", "--json").out)["notes"] == {"0": text}
    assert run("report", "small", "--out", "note.html").code == 0
    assert text.replace("<", "&lt;").replace(">", "&gt;") in (place / "note.html").read_text()
    Sweep.open("small", home=place / "mlruns").note(0, "")
    assert "note" not in run("leaderboard", "small").out + run("status", "small").out
    (place / "note.html").unlink()
    shutil.rmtree(place / "mlruns/sweeps")


def test_what_a_trial_printed(run: Run, place: Path) -> None:
    folder = place / "mlruns/sweeps/small/trials/trial-0000"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("epoch 1: val CER 50.00%\n")
    for flags in ([], ["--follow"]):  # nobody trains it: there is nothing to wait for
        ended = run("logs", "small", "0", *flags)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == "epoch 1: val CER 50.00%\ntrial 0 pruned: rung at epoch 1\n"
    shutil.rmtree(place / "mlruns/sweeps")


def test_scores(run: Run) -> None:
    ended = run("evaluate", "model", "--data", "corpus", "--split", "dev", "--json")
    scores = json.loads(ended.out)
    printed = run("evaluate", "model", "--data", "corpus", "--split", "dev")
    assert (printed.code, printed.err) == (0, "")
    lines = [line.split() for line in printed.out.splitlines()]
    for rate, unit in (("cer", "character"), ("wer", "word")):
        interval = ConfidenceInterval(*scores[f"{rate}_interval"])
        counts = map(str, scores[f"{unit}_edits"].values())
        assert [rate.upper(), f"{scores[rate]:.2%}", str(interval), *counts, str(scores[f"{unit}s"])] in lines
    assert f"dev, 3 utterances; interval: 95%, {METHOD}" in " ".join(printed.out.split())


def test_scores_of_another_search(run: Run) -> None:
    asked = ["--data", "corpus", "--split", "dev", "--method", "joint", "--beam", "2", "--ctc-weight", "0.5"]
    scores = json.loads(run("evaluate", "model", *asked, "--json").out)
    assert scores["cer"] == sum(scores["character_edits"].values()) / scores["characters"]


def test_searches_side_by_side(run: Run) -> None:
    asked = ["--data", "corpus", "--split", "dev", "--compare", "--beam", "2"]
    rows = json.loads(run("evaluate", "model", *asked, "--json").out)
    assert [list(row) for row in rows] == [["method", "cer", "wer", "real_time_factor", "real_time_factor_alone"]] * 5
    printed = run("evaluate", "model", *asked)
    assert (printed.code, printed.err) == (0, "")
    assert "real-time factor" in printed.out
    for row in rows:
        (line,) = [line.split() for line in printed.out.splitlines() if line.split()[:1] == [row["method"]]]
        assert line[1:3] == [f"{row['cer']:.2%}", f"{row['wer']:.2%}"]


def test_transcripts_are_a_line_a_file(run: Run) -> None:
    ended = run("transcribe", "model", "good.wav", "./good.wav")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split("\t") for line in ended.out.splitlines()]
    assert [name for name, _ in lines] == ["good.wav", "good.wav"]
    assert lines[0][1] == lines[1][1] != ""


def test_transcripts_in_other_formats(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From standard input too; a file's name may say which format."""
    (recording,) = json.loads(run("transcribe", "model", "good.wav", "--format", "json").out)
    assert (recording["file"], recording["duration"]) == ("good.wav", 0.5)
    with (place / "good.wav").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        piped = run("transcribe", "model", "-")
    assert (piped.code, piped.err, piped.out) == (0, "", f"-\t{recording['text']}\n")
    out = tmp_path / "good.vtt"
    ended = run("transcribe", "model", "good.wav", "--out", str(out))
    assert (ended.code, ended.out, ended.err) == (0, f"{out}: 1 transcribed\n", "")
    assert out.read_text() == run("transcribe", "model", "good.wav", "--format", "vtt").out
    assert out.read_text().startswith("WEBVTT\n")


def test_a_submission(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "submission.csv"
    ended = run("submit", "model", "--data", "corpus", "--split", "test", "--out", str(out))
    assert (ended.code, ended.out, ended.err) == (0, f"{out}: 5 transcriptions\n", "")
    assert out.read_text().startswith("id,transcription\n0,")


def close(outcome: Outcome, *words: str) -> Ended:
    """What is printed at a sweep's end, by the command with these words before `sweep`."""

    @cli.cli.command("closing")
    def closing() -> None:
        sweeps._close(outcome)

    try:
        ended = CliRunner().invoke(cli.cli, [*words, "closing"])
    finally:
        del cli.cli.commands["closing"]
    return Ended(ended.exit_code, ended.stdout, ended.stderr)


def test_the_end_of_a_sweep_says_where_to_look_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    corpus = Corpus.open(place / "corpus")
    trials = [records.trial(0, "complete", [0.25]), records.trial(1, "failed", reason="DivergedError: nan")]
    whole = Outcome(
        "small",
        corpus,
        "dev",
        trials,
        place / "my models" / "small",
        "models:/small@champion",
        state="finished",
        reason="",
        intervals={},
        objectives=["val_cer"],
    )
    ended = close(whole)
    assert ended.code == 0
    assert "model:           my models/small\n" in ended.out
    assert f"platform evaluate 'my models/small' --data {corpus.path} --split dev\n" in ended.out
    assert "compare trials:  platform ui\n" in ended.out and "tune-decoding" not in ended.out
    assert "in the registry: models:/small@champion\n" in ended.out
    assert "trial 1 failed: diverged: the loss is no longer a number; try " in ended.out
    ended = close(
        dataclasses.replace(whole, model=None, registered="", state="stopped"),
        "--home",
        "my runs",
    )
    assert ended.code == 130
    assert "stopped; go on with: platform --home 'my runs' sweep --resume small\n" in ended.out
    ended = close(dataclasses.replace(whole, trials=trials[1:], model=None, registered=""))
    assert ended.code == 1
    assert "no model: no trial finished an epoch\n" in ended.out
    cap = "5 of 5 hours (--max-hours) are spent"
    ended = close(dataclasses.replace(whole, state="capped", reason=cap))
    assert ended.code == 0
    assert "model:           my models/small\n" in ended.out
    assert f"tune decoding:   platform tune-decoding 'my models/small' --data {corpus.path}\n" in ended.out
    assert f"stopped: {cap}; with more of them, go on: platform sweep --resume small\n" in ended.out
    ended = close(dataclasses.replace(whole, state="failed", reason="the node is gone"))
    assert "stopped: the node is gone\ngo on with: platform sweep --resume small\n" in ended.out and ended.code == 1
    ended = close(dataclasses.replace(whole, registered=""), "--home", "my runs")
    mending = "not registered:  once MLflow can be written, platform --home 'my runs' doctor small --repair\n"
    assert mending in ended.out


def test_a_sweep_that_has_learned_nothing_says_what_to_try(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    outcome = Outcome(
        "small", Corpus.open(place / "corpus"), "dev", [records.trial(0, "complete", [1.2, 0.97])],
        place / "models" / "small", "models:/small/1", state="finished", reason="", intervals={},
        objectives=["val_cer"],
    )  # fmt: skip
    ended = close(outcome)
    assert ended.code == 0 and "nothing learned: val CER 97.00%\n" in ended.out
    tried = [line for line in ended.out.splitlines() if line.startswith("try: ")]
    assert len(tried) == len(REMEDIES) and any("--init-from MODEL" in line for line in tried)
    assert "model:           models/small\n" in ended.out
    assert not any(word in ended.out for word in ("transcribe", "champion", "confirm", "report"))


def test_a_plan_for_machines(run: Run) -> None:
    ended = run("plan", "widths.yaml", "--data", "corpus", "--trials", "4", "--no-profile", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert list(found) == [
        "space", "proposals", "feasible", "parameters", "trials", "epochs", "rungs", "concurrency", "workers",
        "expense", "growth",
    ]  # fmt: skip
    assert list(found["parameters"]) == ["min", "25%", "50%", "75%", "max"]
    assert [list(rung) for rung in found["rungs"]] == [["epoch", "trials"]] * 3
    assert [rung["epoch"] for rung in found["rungs"]] == [3, 5, 9], "late bloomers are judged at half"
    assert (found["trials"], found["rungs"][0], found["expense"]) == (4, {"epoch": 3, "trials": 4.0}, None)


@pytest.mark.filterwarnings("default::FutureWarning")
def test_a_warning_for_users_is_one_line_on_stderr(run: Run, place: Path) -> None:
    """As of a key under its former name; without Python's mention of the source line that warns."""
    (place / "former.yaml").write_text(records.SPACE.replace("grace: 3", "grace: 3, look: 2"))
    ended = run("plan", "former.yaml", "--data", "corpus", "--no-profile")
    assert ended.code == 0 and ended.out
    assert ended.err == (
        "platform: former.yaml, line 10: asha.look is called asha.promotion now; "
        "this is the last version to read both\n"
    )
