"""Tables of trials: every figure whole, on terminals narrow and wide."""

from __future__ import annotations

from pathlib import Path

import pytest
import records
import tiny
from rich.console import Console
from terminals import STATES, cells, console, rendered, text_of, trials_of

from asr_platform.analysis.bootstrap import CerInterval, ConfidenceInterval
from asr_platform.analysis.leaderboard import rows
from asr_platform.cli.printing import say
from asr_platform.cli.tables.corpus import corpus_table
from asr_platform.cli.tables.leaderboard import print_leaderboard, ranking_table, trial_table
from asr_platform.study.ledger import TrialRecord
from search_spaces.reader import load_space, shipped


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
