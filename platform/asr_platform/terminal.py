"""What a person sees: a live table while a sweep runs, plain lines where there is no terminal, tables at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from asr_platform.leaderboard import ranked
from asr_platform.study import Ledger, TrialRecord
from trainables.data.corpus import Corpus

COLOURS = {"running": "cyan", "complete": "green", "pruned": "yellow", "failed": "red"}
LINES_AROUND_TABLE = 10


class View:
    """Follows a sweep on the terminal. Not a terminal: one plain line an event."""

    def __init__(self, console: Console, epochs: int | None = None) -> None:
        self.console = console
        self.live: Live | None = None
        self.ledger: Ledger | None = None
        self.epochs = epochs
        self.header = ""

    @contextmanager
    def sweep(self, name: str, dashboard: str, ledger: Ledger, epochs: int) -> Iterator[None]:
        """Shows the sweep for as long as the block lasts."""
        self.ledger, self.epochs = ledger, epochs
        self.header = f"sweep {name}   Ray dashboard: {dashboard}   MLflow: platform ui"
        if not self.console.is_terminal:
            self.line(self.header)
            yield
            return
        with Live(console=self.console, get_renderable=self.picture, refresh_per_second=2) as self.live:
            yield
        self.live = None

    def picture(self) -> Group:
        """The header and the trials: those running, then the best of the others, as many as fit."""
        assert self.ledger is not None
        trials = self.ledger.trials()
        running = [trial for trial in trials if trial.state == "running"]
        others = [trial for trial in ranked(trials) if trial.state != "running"]
        room = max(3, self.console.height - LINES_AROUND_TABLE - len(running))
        hidden = len(others) - room
        footer = f"{hidden} more in platform leaderboard; " if hidden > 0 else ""
        total = self.ledger.about["trials"]
        footer += f"{len(trials)} of {total} trials begun. Ctrl-C stops cleanly."
        return Group(Text(self.header), trial_table(running + others[:room], self.epochs), Text(footer, style="dim"))

    def started(self, trial: TrialRecord) -> None:
        varied = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        went_on = f", going on after epoch {trial.epochs}" if trial.epochs else ""
        self.line(f"trial {trial.number} started{went_on}: {trial.about['parameters']:,} parameters {varied}")

    def progressed(self, trial: TrialRecord) -> None:
        row = trial.curve[-1]
        self.line(
            f"trial {trial.number} epoch {row['epoch']}/{self.epochs}: "
            f"val CER {row['val_cer']:.2%} CTC {row['val_ctc_cer']:.2%} train loss {row['train_loss']:.3f}"
        )

    def ended(self, trial: TrialRecord) -> None:
        self.line(f"trial {trial.number} {trial.state}" + (f": {trial.reason}" if trial.reason else ""))

    def line(self, text: str) -> None:
        """An event, where no table shows it."""
        if not self.console.is_terminal:
            self.say(text)

    def say(self, text: str) -> None:
        """A line for terminals and log files alike."""
        self.console.print(text, soft_wrap=True, highlight=False)
        self.console.file.flush()  # a log file is read while the sweep runs


def trial_table(trials: list[TrialRecord], epochs: int | None = None) -> Table:
    """Trials in the order given; `epochs` is a full trial's length."""
    table = Table(box=SIMPLE)
    for heading in ("trial", "epoch", "parameters", "val CER", "CTC CER"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("what stopped it", overflow="fold")
    for trial in trials:
        best = trial.best or {}
        table.add_row(
            str(trial.number),
            f"{trial.epochs}/{epochs}" if epochs else str(trial.epochs),
            f"{trial.about.get('parameters', 0):,}",
            _percent(best.get("val_cer")),
            _percent(best.get("val_ctc_cer")),
            Text(trial.state, style=COLOURS[trial.state]),
            trial.reason,
        )
    return table


def leaderboard_table(trials: list[TrialRecord]) -> Table:
    """The ranking, with a column for each varied key."""
    ranking = ranked(trials)
    keys = sorted({key for trial in ranking for key in trial.params})
    table = Table(box=SIMPLE, caption="val CER is each trial's best epoch", caption_justify="left")
    for heading in ("rank", "trial", "val CER", "parameters", "epochs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for key in keys:
        # The section is dropped where the rest of the key says enough.
        table.add_column(key.rpartition(".")[2].replace("_", " "), justify="right")
    for rank, trial in enumerate(ranking, start=1):
        table.add_row(
            str(rank),
            str(trial.number),
            _percent(trial.best["val_cer"] if trial.best else None),
            f"{trial.about.get('parameters', 0):,}",
            str(trial.epochs),
            Text(trial.state, style=COLOURS[trial.state]),
            *(_short(trial.params[key]) if key in trial.params else "" for key in keys),
        )
    return table


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


def progress_bar(console: Console, task: str, count: ProgressColumn | None = None) -> Progress:
    """A bar for work on a known number of items, or of what `count` shows."""
    columns = (TextColumn(task), BarColumn(), count or MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
