"""A running sweep as a person sees it: every line whole in a log, and a table on a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import records
from optuna.trial import TrialState
from rich.console import Console
from terminals import REASONS, STATES, cells, console, numbers, rendered, text_of

from asr_platform.cli.live import WHY_TRIALS_WAIT, LiveDisplay
from asr_platform.study.ledger import Ledger
from asr_platform.study.run_record import RUN, SPENT
from trainables.progress import PROGRESS, Progress, ProgressFile


@pytest.fixture
def ledger() -> Ledger:
    return records.ledger_in_memory(trials=5)


def follow(view: LiveDisplay, ledger: Ledger, folder: Path) -> None:
    """One trial that goes on and ends well, one that is stopped, two that fail, the first of them with a log."""
    log = folder / "trials" / "trial-0002" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(9)))
    with view.sweep("small", "http://127.0.0.1:8265", ledger, 9, folder):
        number = records.add(ledger, "running", [0.5])
        view.on_trial_start(ledger.trial(number))
        ledger.record(number, records.row(2, 0.25))
        view.on_epoch_end(ledger.trial(number))
        ledger.finish(number, "complete")
        view.on_trial_end(ledger.trial(number))
        for state in STATES[1:3] + STATES[2:3]:
            view.on_trial_end(ledger.trial(records.add(ledger, state, [0.9], REASONS[state])))


def explanation(folder: Path) -> list[str]:
    """What follows on the two failures; the second has the same cause, and no log."""
    return [
        "  cause: diverged: the loss is no longer a number",
        "  try:   a lower optimizer.lr, a longer optimizer.warmup or a smaller training.clip_norm",
        f"  log:   {folder}/trials/trial-0002/log.txt, which ends:",
        *(f"    | line {number}" for number in range(4, 9)),
        f"trial 3 failed: {REASONS['failed']}",
        "  log:   none of its own; Ray's: unknown",
    ]


def test_a_log_has_one_whole_line_an_event(ledger: Ledger, tmp_path: Path) -> None:
    """And a few lines more of a failure."""
    target = console(60)
    follow(LiveDisplay(target), ledger, tmp_path)
    lines = text_of(target).splitlines()
    token = "(token, if it asks: ray get-auth-token)"
    assert lines[0] == f"sweep small   MLflow: platform ui   Ray dashboard: http://127.0.0.1:8265 {token}"
    assert lines[1:] == [
        "trial 0 goes on after epoch 1",
        "trial 0 epoch 2/9: val CER 25.00% (best 25.00%, trial 0) CTC 26.00% train loss 1.500",
        "trial 0 complete",
        f"trial 1 pruned: {REASONS['pruned']}",
        f"trial 2 failed: {REASONS['failed']}",
        *explanation(tmp_path),
    ]


def test_a_log_has_the_values_of_a_trial_that_starts_and_says_once_why_trials_wait(ledger: Ledger) -> None:
    target = console(60)
    view = LiveDisplay(target)
    new = ledger.trial(records.add(ledger, "running", []))
    view.on_trial_start(new)
    ledger.record(new.number, records.row(1, 0.5))
    for _ in range(2):
        view.on_trial_paused(ledger.trial(new.number))
    lines = text_of(target).splitlines()
    assert lines[0].startswith(f"trial {new.number} started: {new.about['parameters']:,} parameters ")
    assert f"model.d_model={new.params['model.d_model']}" in lines[0]
    assert f"optimizer.lr={new.params['optimizer.lr']:.3g}" in lines[0]
    assert lines[1:] == [f"trial {new.number} waits at epoch 1: {WHY_TRIALS_WAIT}"]


def test_a_log_warns_once_of_utterances_that_ctc_leaves_out(ledger: Ledger) -> None:
    target = console(60)
    view = LiveDisplay(target)
    number = records.add(ledger, "running", [])
    for epoch in (1, 2):
        ledger.record(number, {**records.row(epoch, 0.5), "infeasible_ctc": 17})
        view.on_epoch_end(ledger.trial(number))
    warnings = [line for line in text_of(target).splitlines() if "CTC leaves them out" in line]
    assert len(warnings) == 1 and "17 training utterances" in warnings[0]


def test_a_terminal_has_the_table_and_what_it_has_no_room_for(ledger: Ledger, tmp_path: Path) -> None:
    """Failures are said in full above the table; the rest the table tells."""
    target = console(80, terminal=True)
    follow(LiveDisplay(target, "platform --home elsewhere"), ledger, tmp_path)
    shown = text_of(target)
    for line in (f"trial 2 failed: {REASONS['failed']}", *explanation(tmp_path)):
        assert line in shown
    assert "trial 1 pruned" not in shown
    last = shown[shown.rindex("sweep small") :].splitlines()
    assert "MLflow: platform --home elsewhere ui" in " ".join(" ".join(last[:2]).split())
    assert cells(last, "0")[1:5] == ["2/9", f"{ledger.trial(0).about['parameters']:,}", "25.00%", "complete"]
    footer = [line.strip() for line in last]
    assert "4 of 5 trials begun." in footer
    assert "Time left: not known before the first epoch. Ctrl-C stops cleanly." in footer


def test_the_footer_says_how_long_it_will_take(ledger: Ledger) -> None:
    """Eight of nine epochs of one trial, at 12 seconds each, and four more trials."""
    view = LiveDisplay(console(80))
    ledger.note(RUN, {"concurrency": 1, "last_heartbeat": time.time()})
    ledger.note(SPENT, 12.0)
    records.add(ledger, "running", [0.5])
    view.ledger, view.epochs = ledger, 9
    assert "Time left: about 9 min." in rendered(view.console, view.picture())[-1]


def test_nothing_but_the_table_writes_on_a_terminal(tmp_path: Path) -> None:
    """Ray and MLflow print in this process too: that is in a file, and after an error it is said in which."""
    code = (
        "import ctypes, os, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; import records; from rich.console import Console\n"
        "from asr_platform.cli.live import LiveDisplay\n"
        "view = LiveDisplay(Console())\n"
        "with view.sweep('small', 'http://127.0.0.1:1', records.ledger_in_memory(5), 9, Path(sys.argv[1])):\n"
        "    os.write(2, b'a library in C\\n'); print('a warning', file=sys.stderr)\n"
        "    raise RuntimeError('Ray is gone')\n"
    )
    master, terminal = pty.openpty()
    words = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent), *sys.path]
    process = subprocess.Popen(words, stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody writes any more
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    assert process.wait() == 1
    text = shown.decode()
    assert "sweep small" in text and "0 of 5 trials begun." in text
    assert "a library in C" not in text and "a warning" not in text
    assert "what was printed meanwhile: driver.log; Ray's logs: unknown" in text
    assert text.rstrip().endswith("RuntimeError: Ray is gone"), "once the table is gone"
    assert (tmp_path / "driver.log").read_text() == "a library in C\na warning\n"


GONE = """
import sys; sys.path[:0] = sys.argv[2:]
from pathlib import Path
import records
from asr_platform.cli import main as cli
from asr_platform.cli import sweeps
from asr_platform.cli.options import shared as cli_shared
from asr_platform.tuning.sweep_run import Outcome

@cli.cli.command("watched")
def watched():
    view, ledger = cli_shared.follow(cli_shared.console(), ()), records.ledger_in_memory(trials=5)
    shown = sys.stdout.isatty()
    with view.sweep("small", "http://127.0.0.1:1", ledger, 9, Path(sys.argv[1])):
        view.say("begun")
        sys.stdin.readline()  # by now, nobody reads any more
        trial = ledger.trial(records.add(ledger, "running", [0.5]))
        for _ in range(3):
            view.on_trial_start(trial)
            view.on_worker_lost(trial, "its machine is gone", True)
            view.say("x" * 100_000)
        if shown:
            print("said meanwhile", file=sys.stderr)
    (Path(sys.argv[1]) / "ended").touch()
    sweeps._close(Outcome("small", None, "dev", ledger.trials(), None, "", "stopped", "", {}, ["val_cer"]))

cli.cli.main(["watched"], standalone_mode=False)
"""


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_sweep_goes_on_when_its_terminal_or_pipe_is_gone(kind: str, tmp_path: Path) -> None:
    """The sweep ends with its own exit code, here that of a stopped one; the driver's log is complete."""
    reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
    words = [sys.executable, "-c", GONE, str(tmp_path), str(Path(__file__).parent), *sys.path]
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=writer, stderr=file, cwd=tmp_path)
    os.close(writer)
    shown = b""
    while b"begun" not in shown:
        piece = os.read(reader, 4096)
        assert piece, errors.read_text()
        shown += piece
    os.close(reader)
    process.communicate(b"\n")
    assert (process.returncode, errors.read_text()) == (130, "")
    assert (tmp_path / "ended").exists()
    if kind == "terminal":
        assert (tmp_path / "driver.log").read_text() == "said meanwhile\n"


def picture(ledger: Ledger, target: Console) -> list[str]:
    view = LiveDisplay(target)
    view.ledger, view.epochs, view.header = ledger, 70, "sweep small"
    return rendered(target, view.picture())


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_picture_has_a_line_a_trial(ledger: Ledger, width: int) -> None:
    """Number, epoch, parameters, CER and state are whole; of the reason or its cause, what the line has room for.

    A wide terminal has times before the parameters, and searched values behind the reason.
    """
    reasons = REASONS | {"failed": "diverged: the loss is no longer a number"}
    for state in STATES:
        records.add(ledger, state, [0.98765, 0.12345] if state != "failed" else [], REASONS.get(state, ""))
    lines = picture(ledger, console(width))
    assert max(map(len, lines)) <= width
    for trial in ledger.trials():
        expected = [str(trial.number), f"{trial.epochs}/70", f"{trial.about['parameters']:,}"]
        if trial.epochs:
            expected += ["12.35%", "13.35%"] if width >= 100 else ["12.35%"]
        words = cells(lines, str(trial.number))
        times = slice(2, words.index(expected[2]))
        assert bool(words[times]) if width == 160 and trial.epochs else width == 160 or not words[times]
        del words[times]
        assert words[: len(expected) + 1] == [*expected, trial.state]
        reason = " ".join(words[len(expected) + 1 :])
        if width == 160:  # values of the keys that differ come last
            assert reason.startswith(reasons.get(trial.state, "")[:20])
        elif trial.state in reasons:
            assert len(reason) > 20 and reasons[trial.state].startswith(reason.removesuffix("…"))
        else:
            assert reason == ""
    assert numbers(lines)[0] == 3, "what runs comes first"


@pytest.mark.parametrize(("running", "ended"), [(0, 30), (4, 30), (30, 2), (30, 30)])
def test_the_picture_fits_the_screen(running: int, ended: int) -> None:
    """However many trials there are, and it says how many it leaves out."""
    ledger = records.ledger_in_memory(trials=99)
    for number in range(running + ended):
        trial = ledger.study.ask()
        if number < ended:
            ledger.study.tell(trial, state=TrialState.FAIL)
    lines = picture(ledger, console(80, 24))
    assert len(lines) <= 24
    *shown, hidden = numbers(lines)
    assert lines[-2].startswith(f"{hidden} more in platform leaderboard; ")
    assert len(shown) + hidden == running + ended
    assert sum(number < ended for number in shown) >= min(3, ended)
    assert f"{running + ended} of 99 trials begun" in lines[-2]


def test_the_first_epochs_progress_is_shown_by_its_updates(ledger: Ledger, tmp_path: Path) -> None:
    """No epoch before it tells how long it takes; the updates of an epoch that is over tell nothing of the next."""
    number = records.add(ledger, "running", [])
    folder = tmp_path / "trials" / "trial-0000"
    folder.mkdir(parents=True)
    view = LiveDisplay(console(160))
    view.ledger, view.epochs, view.folder, view.header = ledger, 9, tmp_path, "sweep small"
    view.on_trial_start(ledger.trial(number))
    view.console.file = io.StringIO()
    assert "%" not in " ".join(cells(rendered(view.console, view.picture()), "0"))
    for epoch in (2, 1):
        ProgressFile(folder / PROGRESS)(Progress(epoch, 3, 12))
        view.console.file = io.StringIO()
        assert ("25%" in cells(rendered(view.console, view.picture()), "0")) == (epoch == 1)
    ledger.record(number, records.row(1, 0.5))
    ProgressFile(folder / PROGRESS)(Progress(2, 3, 12))
    view.console.file = io.StringIO()
    assert cells(rendered(view.console, view.picture()), "0")[1:3] == ["1/9", "25%"]
