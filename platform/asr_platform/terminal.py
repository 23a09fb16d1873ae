"""What a person sees: a live table while a sweep runs, plain lines where there is no terminal, tables at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, cast

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from asr_platform.failures import Cause, diagnose, explained
from asr_platform.following import Follower
from asr_platform.home import TRIALS, trial_name
from asr_platform.leaderboard import pareto_front, ranked
from asr_platform.notify import notify
from asr_platform.run_on_record import RUN
from asr_platform.significance import Interval, Standing
from asr_platform.study import Ledger, TrialRecord
from asr_platform.time_left import in_words, time_left
from asr_platform.trial_logs import last_lines
from trainables.metrics import OBJECTIVES, objective, objective_text
from trainables.output import ERR, LastingOutput, output_in

if TYPE_CHECKING:
    from trainables.data.corpus import Corpus

COLOURS = {"running": "cyan", "waiting": "blue", "complete": "green", "pruned": "yellow", "failed": "red"}
LINES_AROUND_TABLE = 11
DRIVER_LOG = "driver.log"  # in the sweep's folder: what its own process printed around the live table
LAST_LINES = 5  # of a failed trial's log
NARROW, NARROWER = 100, 60  # columns: where a terminal has fewer, the live table leaves out what is less telling
EXPENDABLE = ("interval", "parameters", "epochs", "state")  # of the leaderboard, where it does not fit: this one first
UNBOUNDED = 10_000  # columns


class View(Follower):
    """Follows a sweep on the terminal. Not a terminal: one plain line an event.

    Where the terminal or pipe goes away, the sweep goes on in silence.

    Args:
        console: what to print on; from now on, writing to it never fails.
        platform: the command, for hints to copy.
        notify: whom to tell when the sweep has come to rest (`notify.py`).
    """

    def __init__(self, console: Console, platform: str = "platform", notify: Sequence[str] = ()) -> None:
        self.console, self.platform, self.targets = lasting(console), platform, notify
        self.ledger: Ledger | None = None
        self.epochs: int | None = None
        self.header = ""
        self.folder = Path()
        self.explained: list[Cause] = []  # what has been said of failures
        self.waiting: set[int] = set()  # unfinished trials that nobody is training

    @contextmanager
    def sweep(self, name: str, dashboard: str, ledger: Ledger, epochs: int, folder: Path) -> Iterator[None]:
        """Shows the sweep for as long as the block lasts; `folder` is the sweep's own.

        Around the table nothing else may write on the terminal: it would be torn and scroll away. So what libraries
        print goes into a file meanwhile.
        """
        self.ledger, self.epochs, self.folder = ledger, epochs, folder
        self.header = f"sweep {name}   Ray dashboard: {dashboard}   MLflow: {self.platform} ui"
        printed, where = folder / DRIVER_LOG, f"Ray's logs: {self._ray_logs()}"
        with ExitStack() as stack:
            if self.console.is_terminal:
                where = f"what was printed meanwhile: {near(printed)}; {where}"
                stack.enter_context(output_in(printed, [ERR]))
                stack.enter_context(self._table())
            else:
                self.line(self.header)
            try:
                yield
            except Exception:
                stack.close()
                self.say(where)
                raise

    def _table(self) -> Live:
        return Live(console=self.console, get_renderable=self.picture, refresh_per_second=2, redirect_stderr=False)

    def picture(self) -> Group:
        """The header and the trials, as many as fit: those running, then the best of the others, three at least."""
        assert self.ledger is not None
        trials = self.ledger.trials()
        trained = {trial.number for trial in trials if trial.state == "running"} - self.waiting
        running = [trial for trial in trials if trial.number in trained]
        others = [trial for trial in ranked(trials) if trial.number not in trained]
        room = max(6, self.console.height - LINES_AROUND_TABLE)
        shown = running[: room - min(3, len(others))]
        shown += others[: room - len(shown)]
        hidden = len(trials) - len(shown)
        footer = f"{hidden} more in {self.platform} leaderboard; " if hidden else ""
        about = self.ledger.about
        footer += f"{len(trials)} of {about['trials']} trials begun.\n"
        left = time_left(about, trials, self.epochs or 0, time.time())
        footer += f"Time left: {in_words(left)}. Ctrl-C stops cleanly."
        table = trial_table(shown, self.epochs, self.console.width, self.waiting)
        return Group(Text(self.header), table, Text(footer, style="dim"))

    def opened(self, trials: list[TrialRecord]) -> None:
        self.waiting = {trial.number for trial in trials if trial.state == "running"}

    def started(self, trial: TrialRecord) -> None:
        self.waiting.discard(trial.number)
        varied = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        went_on = f", going on after epoch {trial.epochs}" if trial.epochs else ""
        self.line(f"trial {trial.number} started{went_on}: {trial.about['parameters']:,} parameters {varied}")

    def progressed(self, trial: TrialRecord) -> None:
        row = trial.curve[-1]
        self.line(
            f"trial {trial.number} epoch {row['epoch']}/{self.epochs}: "
            f"{OBJECTIVES[objective(row)]} {objective_text(row)}"
            + (f" CTC {row['val_ctc_cer']:.2%}" if "val_ctc_cer" in row else "")
            + f" train loss {row['train_loss']:.3f}"
        )
        if row["epoch"] == 1 and row.get("infeasible_ctc"):
            self.line(
                f"trial {trial.number}: {row['infeasible_ctc']} training utterances have more tokens than states, "
                "so CTC leaves them out: a smaller reduction_factor or larger tokens would not"
            )

    def lost(self, trial: TrialRecord, reason: str, again: bool) -> None:
        """A lost process is said above the live table too: its cause is the machine, which somebody looks after."""
        self.waiting.add(trial.number)
        then = "goes on from its checkpoint" if again else "lost too often, it waits for --resume"
        self.say(f"trial {trial.number} lost a process after epoch {trial.epochs}, {then}: {reason}")

    def waits(self, trial: TrialRecord) -> None:
        self.waiting.add(trial.number)
        self.line(f"trial {trial.number} waits at epoch {trial.epochs}: more promising and new ones go first")

    def ended(self, trial: TrialRecord) -> None:
        """A failure's reason is said above the live table too, which has room for its beginning alone."""
        show = self.say if trial.state == "failed" else self.line
        show(f"trial {trial.number} {trial.state}" + (f": {trial.reason}" if trial.reason else ""))
        if trial.state == "failed":
            self.explain(trial)

    def explain(self, trial: TrialRecord) -> None:
        """What there is to say of a failure; of a cause that has been explained before, where to look."""
        cause = diagnose(trial.reason)
        log, lines = last_lines(self.folder / TRIALS / trial_name(trial.number), LAST_LINES)
        if cause in self.explained:
            cause, lines = None, []
        elif cause:
            self.explained.append(cause)
        for line in explained(cause, log and near(log), lines, self._ray_logs()):
            self.say(f"  {line}")

    def _ray_logs(self) -> str:
        about = self.ledger.about if self.ledger else {}
        return str(about.get(RUN, {}).get("ray_logs", "unknown"))

    def rests(self, message: Mapping[str, Any]) -> None:
        """The sweep has ended, or been ended: whoever is to be told of that is told."""
        notify(self.targets, message, self.say)

    def line(self, text: str) -> None:
        """An event, where no table shows it."""
        if not self.console.is_terminal:
            self.say(text)

    def say(self, text: str) -> None:
        """A line for terminals and log files alike."""
        say(self.console, text)
        self.console.file.flush()  # a log file is read while the sweep runs


def lasting(console: Console) -> Console:
    """The console itself, whose output is dropped from now on where its terminal or pipe has gone away."""
    console.file = cast(IO[str], LastingOutput(console.file))
    return console


def near(path: Path) -> Path:
    """A path for people: from where they are, if it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def say(console: Console, text: str) -> None:
    """Prints a line as it is: paths and reasons may hold what would be markup, and are copied from the terminal."""
    console.print(Text(text), soft_wrap=True)


def trial_table(
    trials: list[TrialRecord], epochs: int | None, width: int, waiting: Collection[int] = frozenset()
) -> Table:
    """Trials in the order given, a line each.

    Args:
        epochs: a full trial's length.
        width: that of the terminal.
        waiting: numbers of unfinished trials that nobody is training.
    """
    table = Table(box=SIMPLE)
    wide, narrow = width >= NARROW, width < NARROWER
    sizes, ctc = ([] if narrow else ["parameters"]), (["CTC CER"] if wide else [])
    for heading in ("trial", "epoch", *sizes, heading_of(trials), *ctc):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    if not narrow:
        table.add_column("what stopped it")
    for trial in trials:
        best = trial.best or {}
        state = "waiting" if trial.number in waiting else trial.state
        table.add_row(
            str(trial.number),
            f"{trial.epochs}/{epochs}" if epochs else str(trial.epochs),
            *([] if narrow else [f"{trial.about.get('parameters', 0):,}"]),
            objective_text(best) if best else "",
            *([_percent(best.get("val_ctc_cer"))] if wide else []),
            Text(state, style=COLOURS[state]),
            *([] if narrow else [Text(_why(trial), no_wrap=True, overflow="ellipsis")]),
        )
    return table


def _why(trial: TrialRecord) -> str:
    """What ended a trial early; of a failure its cause, where that is known."""
    cause = diagnose(trial.reason) if trial.state == "failed" else None
    return cause.words if cause else trial.reason


def print_leaderboard(
    console: Console,
    trials: list[TrialRecord],
    standings: Mapping[int, Standing] = MappingProxyType({}),
    objectives: Sequence[str] = ("val_cer",),
) -> None:
    """The ranking with what each trial varied, and why some failed.

    Where the console is too narrow for a column a key, a second table has the best trials side by side; where it is
    narrower still, the first table leaves out columns (`EXPENDABLE`), never ranks, trial numbers or error rates.
    """
    ranking = ranked(trials)
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    whole = ranking_table(ranking, keys, standings, objectives)
    if _width(console, whole) <= console.width:
        console.print(whole)
    else:
        left_out: list[str] = []
        for heading in ("", *EXPENDABLE):
            left_out.append(heading)
            table = ranking_table(ranking, [], standings, objectives, left_out)
            if _width(console, table) <= console.width:
                break
        console.print(table)
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
    ranking: list[TrialRecord], keys: list[str], standings: Mapping[int, Standing], objectives: Sequence[str],
    left_out: Collection[str] = (),
) -> Table:  # fmt: skip
    """A row a trial, in the order given, with a column for each of these varied keys.

    Where intervals are known they have a column, and ties with the best a mark, as the Pareto front has one.

    Args:
        left_out: headings of columns to leave out.
    """
    caption = f"{heading_of(ranking)} is that of each trial's best epoch"
    if standings and "interval" not in left_out:
        caption += "; its interval: 95%, over the utterances"
    if any(standing.tied for standing in standings.values()):
        caption += "\n= cannot be told from the best: the 95% interval of the paired difference has 0 in it"
    front = pareto_front(ranking, objectives) if len(objectives) > 1 else set()
    if front:
        caption += f"\n* no other trial is as good in {' and '.join(objectives)} and better in one of them"
    table = Table(box=SIMPLE, caption=caption, caption_justify="left")
    columns: dict[str, Callable[[TrialRecord], RenderableType]] = {
        "trial": lambda trial: str(trial.number),
        heading_of(ranking): lambda trial: objective_text(trial.best) if trial.best else "",
        "interval": lambda trial: interval_text(standings[trial.number].interval) if trial.number in standings else "",
        "parameters": lambda trial: f"{trial.about.get('parameters', 0):,}",
        "real-time\nfactor": _factor,
        "epochs": lambda trial: str(trial.epochs),
        "state": lambda trial: Text(trial.state, style=COLOURS[trial.state]),
    }
    absent = {*left_out, *([] if standings else ["interval"])}
    absent |= set() if "real_time_factor" in objectives else {"real-time\nfactor"}
    shown = [heading for heading in columns if heading not in absent]
    for heading in ("rank", *shown):
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    for key in keys:
        # The section is dropped where the rest of the key says enough.
        table.add_column(key.rpartition(".")[2].replace("_", "\n"), justify="right", no_wrap=True)
    for rank, trial in enumerate(ranking, start=1):
        standing = standings.get(trial.number)
        mark = f"{'*' * (trial.number in front)}{'=' * bool(standing and standing.tied)}"
        cells = (columns[heading](trial) for heading in shown)
        table.add_row(f"{mark}{rank}", *cells, *(_value(trial, key) for key in keys))
    return table


def side_by_side(console: Console, ranking: list[TrialRecord], keys: list[str]) -> Table:
    """What the best trials varied: a row a key, and a column for each of as many trials as the console has room for."""

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
    """The columns that a table takes where it need not shorten anything."""
    return Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum


def corpus_table(corpus: Corpus) -> Table:
    """What was prepared, a row a split."""
    table = Table("split", box=SIMPLE)
    for heading in ("utterances", "hours", "characters", "mean seconds"):
        table.add_column(heading, justify="right")
    for name, split in corpus.splits.items():
        table.add_row(
            name,
            f"{split.utterances:,}",
            f"{split.seconds / 3600:.2f}",
            f"{split.characters:,}",
            f"{split.seconds / max(1, split.utterances):.2f}",
        )
    return table


def comparison_table(rows: list[dict[str, Any]]) -> Table:
    """Searches beside each other, a row each."""
    table = Table("method", box=SIMPLE)
    for heading in ("CER", "WER", "real-time factor"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row["method"], _percent(row["cer"]), _percent(row["wer"]), f"{row['real_time_factor']:.4f}")
    return table


def progress_bar(console: Console, task: str, count: ProgressColumn | None = None) -> Progress:
    """A bar for work on a known number of items, or of what `count` shows; nothing where there is no terminal."""
    columns = (TextColumn(task), BarColumn(), count or MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def heading_of(trials: list[TrialRecord]) -> str:
    """Of what the trials are ranked by."""
    return next((OBJECTIVES[objective(trial.best)] for trial in trials if trial.best), OBJECTIVES["val_cer"])


def interval_text(interval: Interval) -> str:
    """`2.31-3.40%`, with a dash."""
    return f"{100 * interval.low:.2f}–{interval.high:.2%}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _factor(trial: TrialRecord) -> str:
    factor = (trial.best or {}).get("real_time_factor")
    return "" if factor is None else f"{factor:.4f}"


def _value(trial: TrialRecord, key: str) -> Text:
    return Text(_short(trial.params[key]) if key in trial.params else "")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def trials_listed(numbers: Sequence[int]) -> str:
    """`trial 2`, or `trials 2, 3 and 7`."""
    return f"trial{'s' * (len(numbers) > 1)} {listed(list(map(str, numbers)))}"
