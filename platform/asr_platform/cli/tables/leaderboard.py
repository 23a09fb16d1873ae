"""Tables of trials."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from asr_platform.analysis.bootstrap import METHOD, CerInterval
from asr_platform.analysis.leaderboard import NO_INTERVALS, columns, entries, ranked, ranking_name
from asr_platform.analysis.text import one_line, short_value
from asr_platform.cli.printing import say
from asr_platform.cli.tables.layout import Cells, table_of
from asr_platform.study.failures import diagnose
from asr_platform.study.ledger import TrialRecord
from asr_platform.study.steering.notes import NOTE, note_of
from trainables.evaluation.metrics import objective_text

COLOURS = {
    "running": "cyan",
    "waiting": "blue",
    "paused": "blue",
    "complete": "green",
    "pruned": "yellow",
    "failed": "red",
}
WIDE, OTHERS = 160, 110  # columns of a terminal that has room for searched keys, and those of all other cells
NOTES = 20  # columns of a wide terminal that searched keys leave to notes
SHORTEST_NOTE = 12  # columns that a note is cut to before a leaderboard leaves out notes
NARROW, NARROWER = 100, 60  # columns of a terminal below which the table of trials leaves out cells
EXPENDABLE = (NOTE, "val_cer_interval", "parameters", "epochs", "state")  # left out of a narrow leaderboard, in order
UNBOUNDED = 10_000  # columns


def trial_table(
    trials: list[TrialRecord],
    epochs: int | None,
    width: int,
    waiting: Collection[int] = frozenset(),
    since: Mapping[int, float] | None = None,
    shares: Mapping[int, float] | None = None,
) -> Table:
    """A table of trials in the order given, one row for each.

    From `NARROW` columns on, it has the notes on trials, if there are any. From `WIDE` columns on, it has the training
    time, the share of the present epoch that is over, and as many of the keys in which the trials differ as fit.

    Args:
        epochs: length of a full trial.
        width: width of the terminal in columns.
        waiting: numbers of trials that no worker trains now; of ended trials, they mean nothing.
        since: seconds since the last epoch or the start of trials in training, by number; None if that is not known.
        shares: shares of the present epoch's updates that are done (0 to 1), by number; for other trials, the share is
            estimated from `since` and the trial's epochs so far.
    """
    timed, noted = width >= WIDE, any(map(note_of, trials))
    keys = _differing(trials, width - OTHERS - NOTES * noted) if timed else []
    wide, narrow = width >= NARROW, width < NARROWER
    bests = [trial.best or {} for trial in trials]
    states = [one.shown_state(one.number not in waiting) for one in trials]
    progress = [f"{trial.epochs}/{epochs}" if epochs else str(trial.epochs) for trial in trials]
    columns = [Cells("trial", [Text(str(trial.number)) for trial in trials]), Cells("epoch", list(map(Text, progress)))]
    if timed:
        times = [_times(trial, (since or {}).get(trial.number), (shares or {}).get(trial.number)) for trial in trials]
        if since is not None:
            columns.append(Cells("this epoch", [Text(share) for share, _ in times]))
        columns.append(Cells("minutes", [Text(minutes) for _, minutes in times]))
    if not narrow:
        columns.append(Cells("parameters", [Text(f"{trial.about.get('parameters', 0):,}") for trial in trials]))
    columns.append(Cells(ranking_name(trials), [Text(objective_text(best) if best else "") for best in bests]))
    if wide:
        columns.append(Cells("CTC CER", [Text(_percent(best.get("val_ctc_cer"))) for best in bests]))
    columns.append(Cells("state", [Text(state, style=COLOURS[state]) for state in states], "left"))
    if not narrow:
        columns.append(Cells("what stopped it", [Text(_why(trial)) for trial in trials], "left", shrinks=True))
    if wide and noted:
        columns.append(Cells(NOTE, [Text(one_line(note_of(trial))) for trial in trials], "left", shrinks=True))
    columns += [Cells(_heading(key, keys), [_value(trial, key) for trial in trials]) for key in keys]
    return table_of(columns, width)


def _times(trial: TrialRecord, since: float | None, share: float | None) -> tuple[str, str]:
    """Share of the present epoch that is over, of which validation is the last hundredth, and minutes of training."""
    total = trial.seconds
    if share is None and since is not None and total > 0:
        share = since * trial.epochs / total
    return "" if share is None else f"{min(0.99, share):.0%}", f"{(total + (since or 0)) / 60:.1f}"


def _differing(trials: Sequence[TrialRecord], room: int) -> list[str]:
    """Keys with several values among the trials, in the order of the space, as many as fit in `room` columns."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    keys = [key for key in keys if len({str(trial.params.get(key)) for trial in trials}) > 1]
    found: list[str] = []
    for key in keys:
        texts = [*_heading(key, keys).split("\n"), *(_value(trial, key).plain for trial in trials)]
        room -= 2 + max(map(len, texts))
        if room < 0:
            break
        found.append(key)
    return found


def _why(trial: TrialRecord) -> str:
    cause = diagnose(trial.reason) if trial.state == "failed" else None
    return cause.words if cause else trial.reason


def print_leaderboard(
    console: Console,
    trials: list[TrialRecord],
    intervals: Mapping[int, CerInterval] = NO_INTERVALS,
    objectives: Sequence[str] = ("val_cer",),
    waiting: Collection[int] = frozenset(),
) -> None:
    """Prints the ranking of trials with their values, and the causes of failures.

    If the console is too narrow for a column for each key, a second table shows the best trials' values; if it is
    narrower still, notes are cut, and then columns in `EXPENDABLE` are left out. Notes are then lines of their own.

    Args:
        waiting: numbers of trials that no worker trains now; of ended trials, they mean nothing.
    """
    ranking = ranked(trials)
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    whole = ranking_table(ranking, keys, intervals, objectives, waiting)
    if _width(console, whole) <= console.width:
        console.print(whole)
    else:
        longest = max((cell_len(one_line(note_of(trial))) for trial in trials), default=0)
        for count in range(len(EXPENDABLE) + 1):
            table = ranking_table(ranking, [], intervals, objectives, waiting, EXPENDABLE[:count], console.width)
            cut = max(0, longest - SHORTEST_NOTE) if count == 0 else 0
            if _width(console, table) - cut <= console.width:
                break
        console.print(table)
        for trial in trials if count > EXPENDABLE.index(NOTE) else ():
            if text := one_line(note_of(trial)):
                say(console, f"note on {trial.number}: {text}")
        console.print(side_by_side(console, ranking, keys))
    failures: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.state == "failed":
            failures.setdefault(_why(trial), []).append(trial)
    for why, failed in failures.items():
        cause = diagnose(failed[0].reason)
        numbers = ", ".join(str(trial.number) for trial in failed)
        say(console, f"trial {numbers} failed: {why}" + (f"; try {cause.remedy}" if cause else ""))


def ranking_table(
    ranking: list[TrialRecord], keys: list[str], intervals: Mapping[int, CerInterval], objectives: Sequence[str],
    waiting: Collection[int] = frozenset(), left_out: Collection[str] = (), width: int = UNBOUNDED,
) -> Table:  # fmt: skip
    """A table of trials, best first, with the leaderboard's columns and a column for each of the `keys`.

    Args:
        waiting: numbers of trials that no worker trains now; of ended trials, they mean nothing.
        left_out: keys of leaderboard columns to leave out.
        width: width of the terminal in columns.
    """
    absent = {*left_out, *([] if intervals else ["val_cer_interval"])}
    shown = [column for column in columns(ranking, objectives, waiting) if column.heading and column.key not in absent]
    board = entries(ranking, intervals, objectives)
    caption = f"{ranking_name(ranking)} of each trial's best epoch"
    if "val_cer_interval" not in absent:
        caption += f"; interval: 95%, {METHOD}"
    if any(entry.cer and entry.cer.tied for entry in board):
        caption += "\n= not significantly different from the best (paired bootstrap, 95%)"
    if any(entry.on_front for entry in board):
        caption += f"\n* no other trial is as good in {' and '.join(objectives)} and better in one of them"
    found = [Cells("rank", [Text(entry.marked_rank) for entry in board])]
    for column in shown:
        texts = [column.cell(entry) for entry in board]
        cells = [Text(text, style=COLOURS[text] if column.key == "state" else "") for text in texts]
        left = column.key in ("state", NOTE)
        found.append(Cells(column.heading, cells, "left" if left else "right", shrinks=column.key == NOTE))
    found += [Cells(_heading(key, keys), [_value(entry.trial, key) for entry in board]) for key in keys]
    return table_of(found, width, caption)


def _heading(key: str, keys: Sequence[str]) -> str:
    """The last parts of a key, one a line, and as many as tell it from all others: `kind`, or `model kind`."""
    parts = key.split(".")
    others = [other.split(".") for other in keys if other != key]
    count = next(
        (count for count in range(1, len(parts)) if all(other[-count:] != parts[-count:] for other in others)),
        len(parts),
    )
    return "\n".join(parts[-count:]).replace("_", "\n")


def side_by_side(console: Console, ranking: list[TrialRecord], keys: list[str]) -> Table:
    """Table of the best trials' values: a row for each key, a column for each trial that fits on the console."""

    def table(shown: list[TrialRecord]) -> Table:
        rest = "; all of them: leaderboard --json" if len(shown) < len(ranking) else ""
        result = Table(box=SIMPLE, caption=f"the best trials' values{rest}", caption_justify="left")
        result.add_column("trial", overflow="fold")
        for trial in shown:
            result.add_column(str(trial.number), justify="right", no_wrap=True)
        for key in keys:
            result.add_row(key, *(_value(trial, key) for trial in shown))
        return result

    count = 1
    while count < len(ranking) and _width(console, table(ranking[: count + 1])) <= console.width:
        count += 1
    return table(ranking[:count])


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _value(trial: TrialRecord, key: str) -> Text:
    return Text(short_value(trial.params[key]) if key in trial.params else "")
