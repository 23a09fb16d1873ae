"""Display of a running sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from asr_platform.analysis.leaderboard import ranked
from asr_platform.analysis.text import short_value
from asr_platform.cli.printing import lasting, near, say
from asr_platform.cli.tables.leaderboard import WIDE, trial_table
from asr_platform.monitoring.time_left import in_words, time_left
from asr_platform.storage.home import TRIALS, trial_name
from asr_platform.storage.trial_logs import last_lines
from asr_platform.study.callbacks import Display
from asr_platform.study.failures import Cause, diagnose, explained
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.run_record import RUN
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text
from trainables.output import ERR, output_in
from trainables.progress import PROGRESS, read_progress

LINES_AROUND_TABLE = 11
DRIVER_LOG = "driver.log"  # in the sweep's folder: output of the driver's process while the live table is shown
LAST_LINES = 5  # of a failed trial's log
WHY_TRIALS_WAIT = "what has the highest chance per second of becoming the sweep's best goes next"


class LiveDisplay(Display):
    """Shows a sweep as a live table on a terminal, and as one line for each event elsewhere.

    The sweep continues without output once the terminal or pipe is closed.

    Args:
        console: console to print on; writing to it never fails from now on.
        platform: command line for hints, such as `platform --home runs`.
        notify: targets to notify at the end of the sweep (`tuning/callbacks/notify.py`).
    """

    def __init__(self, console: Console, platform: str = "platform", notify: Sequence[str] = ()) -> None:
        self.console, self.platform, self.targets = lasting(console), platform, notify
        self.ledger: Ledger | None = None
        self.epochs: int | None = None
        self.header = ""
        self.folder = Path()
        self.explained: list[Cause] = []  # causes of failures that have been explained
        self.waiting: set[int] = set()  # numbers of unfinished trials that no worker trains
        self.said_why = False  # WHY_TRIALS_WAIT
        self.latest: dict[int, float] = {}  # when trials last started or ended an epoch (time.monotonic), by number

    @contextmanager
    def sweep(self, name: str, dashboard: str, ledger: Ledger, epochs: int, folder: Path) -> Iterator[None]:
        """Shows the sweep within the block.

        On a terminal, standard error is redirected to `DRIVER_LOG`, since it would break the live table.
        """
        self.ledger, self.epochs, self.folder = ledger, epochs, folder
        token = "token, if it asks: ray get-auth-token"
        self.header = f"sweep {name}   MLflow: {self.platform} ui   Ray dashboard: {dashboard} ({token})"
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
        """Header and table of the trials that fit: the running ones, then the best others (room is kept for three)."""
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
        now = time.monotonic()
        since = {number: now - self.latest[number] for number in trained if number in self.latest}
        read = [trial for trial in shown if trial.number in trained] if self.console.width >= WIDE else []
        shares = {trial.number: share for trial in read if (share := self._share(trial)) is not None}
        table = trial_table(shown, self.epochs, self.console.width, self.waiting, since, shares)
        return Group(Text(self.header), table, Text(footer, style="dim"))

    def _share(self, trial: TrialRecord) -> float | None:
        """Share of the updates of a trial's present epoch that is done; None if its worker's file is not here."""
        found = read_progress(self.folder / TRIALS / trial_name(trial.number) / PROGRESS)
        return found.share if found and found.epoch == trial.epochs + 1 else None  # else of an epoch before

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        self.waiting = {trial.number for trial in trials if trial.state == "running"}

    def on_trial_start(self, trial: TrialRecord) -> None:
        self.waiting.discard(trial.number)
        self.latest[trial.number] = time.monotonic()
        if trial.epochs:
            self.line(f"trial {trial.number} goes on after epoch {trial.epochs}")
            return
        varied = " ".join(f"{key}={short_value(value)}" for key, value in trial.params.items())
        self.line(f"trial {trial.number} started: {trial.about['parameters']:,} parameters {varied}")

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self.latest[trial.number] = time.monotonic()
        if self.console.is_terminal:
            return
        row = trial.curve[-1]
        self.line(
            f"trial {trial.number} epoch {row['epoch']}/{self.epochs}: "
            f"{OBJECTIVES[objective(row)]} {objective_text(row)}{self._best_so_far()}"
            + (f" CTC {row['val_ctc_cer']:.2%}" if "val_ctc_cer" in row else "")
            + f" train loss {row['train_loss']:.3f}"
        )
        if row["epoch"] == 1 and row.get("infeasible_ctc"):
            self.line(
                f"trial {trial.number}: {row['infeasible_ctc']} training utterances have more tokens than states, "
                "so CTC leaves them out: a smaller reduction_factor or larger tokens would not"
            )

    def _best_so_far(self) -> str:
        """The best epoch of all trials, such as ` (best 2.12%, trial 3)`; empty before the sweep is shown."""
        begun = [trial for trial in (self.ledger.trials() if self.ledger else []) if trial.epochs]
        best = min(begun, key=lambda trial: (trial.lowest, trial.number), default=None)
        return f" (best {objective_text(best.best)}, trial {best.number})" if best and best.best else ""

    def on_worker_lost(self, trial: TrialRecord, reason: str, retried: bool) -> None:
        """Prints that a trial has lost a process."""
        self.waiting.add(trial.number)
        then = "goes on from its checkpoint" if retried else "lost too often, it waits for --resume"
        self.say(f"trial {trial.number} lost a process after epoch {trial.epochs}, {then}: {reason}")

    def on_trial_moved(self, trial: TrialRecord, how: str) -> None:
        self.waiting.add(trial.number)
        self.say(f"trial {trial.number} is interrupted after epoch {trial.epochs}, and goes on {how} from where it was")

    def on_trial_paused(self, trial: TrialRecord) -> None:
        self.waiting.add(trial.number)
        if trial.paused:
            self.line(f"trial {trial.number} is paused at epoch {trial.epochs}: until it is unpaused")
        elif not self.said_why:  # trials wait every few epochs
            self.line(f"trial {trial.number} waits at epoch {trial.epochs}: {WHY_TRIALS_WAIT}")
            self.said_why = True

    def on_trial_end(self, trial: TrialRecord) -> None:
        """Prints that a trial has ended; a failure also above the live table, which cuts the reason."""
        show = self.say if trial.state == "failed" else self.line
        show(f"trial {trial.number} {trial.state}" + (f": {trial.reason}" if trial.reason else ""))
        if trial.state == "failed":
            self.explain(trial)

    def explain(self, trial: TrialRecord) -> None:
        """Prints the cause of a failure and the end of the trial's log; for a repeated cause, only the log's path."""
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

    def line(self, text: str) -> None:
        """Prints an event unless there is a live table, which shows it."""
        if not self.console.is_terminal:
            self.say(text)

    def say(self, text: str) -> None:
        """Prints a line, above a live table if there is one."""
        say(self.console, text)
        self.console.file.flush()  # a log file is read while the sweep runs
