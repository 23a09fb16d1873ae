"""What a person reads: every line whole in a log, every figure whole in a table, on terminals narrow and wide."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
import records
import tiny
from optuna.trial import TrialState
from rich.console import Console, RenderableType

from asr_platform.analysis.bootstrap import CerInterval, ConfidenceInterval
from asr_platform.analysis.leaderboard import rows
from asr_platform.cli.live import WHY_TRIALS_WAIT, LiveDisplay
from asr_platform.cli.printing import say
from asr_platform.cli.tables.corpus import corpus_table
from asr_platform.cli.tables.leaderboard import print_leaderboard, ranking_table, trial_table
from asr_platform.study.ledger import Ledger, TrialRecord, TrialStatus
from asr_platform.study.run_record import RUN, SPENT
from search_spaces.reader import load_space, shipped
from search_spaces.space import Space

STATES: list[TrialStatus] = ["complete", "pruned", "failed", "running"]
REASONS = {
    "pruned": "rung at epoch 15: val CER 45.30% against a cutoff of 40.10%",
    "failed": "DivergedError: the loss became nan [/in] epoch 3 :x: try a lower optimizer.lr, " + "and so on " * 30,
}


def trials_of(space: Space, count: int = 8) -> list[TrialRecord]:
    """Trials in every state, with figures of every length."""
    found = []
    for number in range(count):
        state = STATES[number % 4]
        cers = {"complete": [0.9, 0.1 + number / 1000], "pruned": [1.25], "failed": [], "running": [0.5]}[state]
        params = space.propose(records.Dice(number))
        about = {"parameters": 10 ** (number % 4 + 4) * 3 - 1}
        found.append(records.trial(number, state, cers, params, REASONS.get(state, ""), **about))
    return found


def console(width: int, height: int = 40, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None, _environ={}
    )


def text_of(target: Console) -> str:
    return str(cast(io.StringIO, target.file).getvalue())


def rendered(target: Console, item: RenderableType) -> list[str]:
    target.print(item)
    return text_of(target).splitlines()


def cells(lines: Sequence[str], first: str) -> list[str]:
    """The words of the one line that begins with a word."""
    found = [line.split() for line in lines if line.split()[:1] == [first]]
    assert len(found) == 1, (first, found)
    return found[0]


def numbers(lines: Sequence[str]) -> list[int]:
    """The numbers that lines begin with."""
    words = [line.split()[0] for line in lines if line.strip()]
    return [int(word) for word in words if word.isdigit()]


# While a sweep runs


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


def test_a_wide_terminal_has_times_and_the_keys_that_differ() -> None:
    """The present epoch's share comes from those before it: each took 12 seconds."""
    trials = [
        records.trial(0, "running", [0.5, 0.4], {"model.norm": "rms", "model.d_model": 64, "optimizer.lr": 0.00123456}),
        records.trial(1, "complete", [0.5], {"model.norm": "rms", "model.d_model": 96, "optimizer.lr": 0.002}),
    ]
    wide = rendered(console(160), trial_table(trials, 9, 160, since={0: 6.0}))
    assert cells(wide, "0")[:4] == ["0", "2/9", "50%", "0.5"] and cells(wide, "0")[-2:] == ["64", "0.00123"]
    assert cells(wide, "1")[:3] == ["1", "1/9", "0.2"] and cells(wide, "1")[-2:] == ["96", "0.002"]
    assert max(map(len, wide)) <= 160 and "norm" not in " ".join(wide)
    narrow = rendered(console(159), trial_table(trials, 9, 159, since={0: 6.0}))
    assert "50%" not in cells(narrow, "0")[:3] and "96" not in " ".join(narrow)


def test_only_unfinished_trials_wait() -> None:
    """Also where a trial waited when it was stopped: the live table and the leaderboard say the state of its end."""
    trials = [records.trial(number, state, [0.5]) for number, state in enumerate(STATES)]
    trials.append(records.trial(4, "running", [0.5], paused=True))
    states = ["complete", "pruned", "failed", "waiting", "paused"]
    everything = set(range(5))
    table = rendered(console(100), trial_table(trials, 9, 100, everything))
    assert [cells(table, str(number))[5] for number in range(5)] == states
    target = console(100)
    print_leaderboard(target, trials, waiting=everything)
    board = text_of(target).splitlines()
    assert [cells(board, str(number + 1))[-1] for number in range(5)] == states
    assert [row["state"] for row in rows(trials, waiting=everything)] == states
    assert [row["state"] for row in rows(trials)] == [*states[:3], "running", "paused"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_long_notes_take_the_room_of_nothing_else(width: int) -> None:
    """A leaderboard without room for a column of notes has them below, and the live table has reasons beside them."""
    note = "its loss falls more slowly than that of trial 3, which has the same shape"
    reason = "stopped on request after epoch 2 of 70"
    space = load_space("hour")
    trials = trials_of(space)
    trials[4] = records.trial(4, "pruned", [0.5], trials[4].params, reason, note={"text": note, "version": 1})
    intervals = {4: CerInterval(ConfidenceInterval(0.4, 0.6), False)}
    target = console(width)
    print_leaderboard(target, trials, intervals)
    board = text_of(target)
    assert max(len(line) for line in board.splitlines() if " failed: " not in line) <= width
    assert note[: 39 if width == 80 else 20] in board and "40.00–60.00%" in board and "pruned" in board
    table = " ".join(rendered(console(width), trial_table(trials, 70, width)))
    assert reason[:15] in table and (note[:16] in table or width < 100)


def test_a_wide_terminal_shows_as_many_keys_as_fit() -> None:
    for name in shipped():
        lines = rendered(console(160), trial_table(trials_of(load_space(name)), 70, 160))
        assert max(map(len, lines)) <= 160, name
        assert all(f"{10 ** (number % 4 + 4) * 3 - 1:,}" in " ".join(lines) for number in range(4)), "nothing is cut"


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


# At the end


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("width", [80, 120, 160, 240])
def test_the_leaderboard_has_every_figure_whole(name: str, width: int) -> None:
    """Best first; with a column for each varied key where there is room, else with the best trials side by side."""
    trials = trials_of(load_space(name))
    target = console(width)
    print_leaderboard(target, trials)
    shown = text_of(target)
    reasons = [line for line in shown.splitlines() if " failed: " in line]
    lines = [line for line in shown.splitlines() if line not in reasons]
    assert max(map(len, lines)) <= width
    assert "…" not in shown
    ranking = [0, 4, 3, 7, 1, 5, 2, 6]
    for rank, number in enumerate(ranking, start=1):
        trial = trials[number]
        expected = [str(rank), str(number), f"{trial.about['parameters']:,}", str(trial.epochs), trial.state]
        if trial.best:
            expected.insert(2, f"{trial.best['val_cer']:.2%}")
        assert cells(lines, str(rank))[: len(expected)] == expected
    assert reasons == [
        "trial 2, 6 failed: diverged: the loss is no longer a number; try a lower optimizer.lr, a longer "
        "optimizer.warmup or a smaller training.clip_norm"
    ]
    if " ".join(("trial", *map(str, ranking[:2]))) in " ".join(shown.split()):
        for key in trials[0].params:
            values = [trials[number].params[key] for number in ranking if key in trials[number].params]
            words = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
            found = cells(lines, key)[1:]
            both = sum(key in trials[number].params for number in ranking[:2])
            assert len(found) >= both and found == words[: len(found)]
    else:
        best = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in trials[0].params.values()]
        assert cells(lines, "1")[6:] == best


@pytest.mark.parametrize("width", [26, 40, 52, 60])
def test_a_narrow_terminal_shows_ranks_trials_and_error_rates(width: int) -> None:
    """Whole, whatever else there is no room for; so does the live table."""
    trials = [records.trial(number, "complete", [0.01 * (number + 1)], {"a.long_key": 1}) for number in range(12)]
    intervals = {number: CerInterval(ConfidenceInterval(0.005, 0.0149), number < 2) for number in range(12)}
    target = console(width)
    print_leaderboard(target, trials, intervals)
    lines = text_of(target).splitlines()
    assert max(map(len, lines)) <= width and "…" not in text_of(target)
    for number in range(12):
        rank = f"{'=' * (number < 2)}{number + 1}"
        assert cells(lines, rank)[1:3] == [str(number), f"{number + 1:.2f}%"]
    assert ("interval: 95%" in " ".join(text_of(target).split())) == any("0.50–1.49%" in line for line in lines)
    if width >= 40:
        shown = rendered(console(width), trial_table(trials, 70, width))
        assert all(cells(shown, str(number))[2 if width < 60 else 3] == f"{number + 1:.2f}%" for number in range(12))


@pytest.mark.parametrize("width", [80, 160])
def test_the_leaderboard_shows_intervals_and_ties(width: int) -> None:
    """Where some trials' errors are on record; the caption says what the mark means."""
    trials = [records.trial(number, "complete", [0.01 * (number + 1)]) for number in range(4)]
    intervals = {
        0: CerInterval(ConfidenceInterval(0.005, 0.0149), True),
        1: CerInterval(ConfidenceInterval(0.01, 0.03), True),
        2: CerInterval(ConfidenceInterval(0.02, 1.04), False),
    }
    target = console(width)
    print_leaderboard(target, trials, intervals)
    lines = text_of(target).splitlines()
    assert cells(lines, "=1")[1:4] == ["0", "1.00%", "0.50–1.49%"]
    assert cells(lines, "=2")[1:4] == ["1", "2.00%", "1.00–3.00%"]
    assert cells(lines, "3")[1:4] == ["2", "3.00%", "2.00–104.00%"]
    assert cells(lines, "4")[1:4] == ["3", "4.00%", "1,234,567"]
    assert "= not significantly different from the best" in " ".join(text_of(target).split())
    alone = console(width)
    print_leaderboard(alone, trials, {0: CerInterval(ConfidenceInterval(0.005, 0.0149), False)})
    assert "=" not in text_of(alone)


def test_the_pareto_front_is_marked() -> None:
    """Trial 0 has the lowest CER, 1 fewer parameters, 2 is worse than 1 in both, 3 the fewest; 4 has only begun."""
    cers, sizes = [[0.5, 0.1], [0.2], [0.3], [0.9], []], [400, 300, 310, 100, 50]
    trials = [
        records.trial(number, "pruned" if number else "complete", cers[number], parameters=sizes[number])
        for number in range(5)
    ]
    for trial in trials:
        for row in trial.curve:
            row["real_time_factor"] = 0.01 * (trial.number + 1)
    target = console(160)
    print_leaderboard(target, trials, objectives=("val_cer", "parameters"))
    lines = text_of(target).splitlines()
    assert [cells(lines, mark)[1] for mark in ("*1", "*2", "3", "*4", "5")] == ["0", "1", "2", "3", "4"]
    assert "no other trial is as good in val_cer and parameters and better in one of them" in " ".join(
        " ".join(lines).split()
    )
    shown = {row["trial"]: row for row in rows(trials, objectives=("val_cer", "parameters"))}
    assert {number: row["pareto"] for number, row in shown.items()} == {0: True, 1: True, 2: False, 3: True, 4: False}
    timed = rows(trials, objectives=("val_cer", "real_time_factor"))
    assert [(row["trial"], row["pareto"], row["real_time_factor"]) for row in timed] == [
        (0, True, 0.01), (1, False, 0.02), (2, False, 0.03), (3, False, 0.04), (4, False, None)
    ]  # fmt: skip
    assert "pareto" not in rows(trials)[0] and "*" not in text_of(printed(trials))


def printed(trials: list[TrialRecord]) -> Console:
    target = console(160)
    print_leaderboard(target, trials)
    return target


def test_the_side_by_side_table_says_that_there_are_more() -> None:
    trials = trials_of(load_space("hw4p2"))
    for width, more in ((80, True), (160, False)):
        target = console(width)
        print_leaderboard(target, trials)
        assert ("all of them: leaderboard --json" in text_of(target)) == more


def test_columns_of_keys_with_the_same_last_part_have_names_of_their_own() -> None:
    keys = ["model.kind", "tokenizer.kind", "model.d_model", "model.editor.d_model", "optimizer.lr"]
    table = ranking_table([records.trial(0, "complete", [0.1])], keys, {}, ("val_cer",), width=0)  # a column for each
    names = [str(column.header).replace("\n", " ") for column in table.columns]
    assert names[-5:] == ["model kind", "tokenizer kind", "model d model", "editor d model", "lr"]


def test_a_leaderboard_without_a_trial_or_without_varied_keys() -> None:
    for trials in ([], [records.trial(0, "complete", [0.1])]):
        target = console(80)
        print_leaderboard(target, trials)
        assert ("10.00%" in text_of(target)) == bool(trials)


def test_what_is_said_is_said_as_it_is() -> None:
    """No markup, no emoji, no line breaks: paths are copied from the terminal."""
    target = console(40)
    line = "model: /home/[bold]x[/]/:smile:/" + "long/" * 20
    say(target, line)
    assert text_of(target) == line + "\n"


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_of_a_corpus(tmp_path: Path, width: int) -> None:
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train-clean-100": tiny.SENTENCES * 3, "dev-clean": ["CAB"]})
    lines = rendered(console(width), corpus_table(corpus))
    summary = corpus.splits["train-clean-100"]
    mean = summary.seconds / 30
    assert cells(lines, "train-clean-100") == [
        "train-clean-100", "30", f"{summary.seconds / 3600:.2f}", str(3 * sum(map(len, tiny.SENTENCES))), f"{mean:.2f}",
    ]  # fmt: skip
    assert cells(lines, "dev-clean")[1] == "1"
    assert cells(lines, "split") == ["split", "utterances", "hours", "characters", "mean", "seconds", "speakers"]
