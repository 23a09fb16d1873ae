"""MLflow shows what the ledger holds: one sweep's parent run and its children, kept in step.

Everything goes through one idempotent step, `show`, which brings a trial's run up to the ledger. So a store that was
away, or lost, or a driver that was killed between two writes is mended by the next step, and never ends a sweep.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from asr_platform.analysis.bootstrap import error_interval
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.reporting.plots import PLOTS, draw_sweep, draw_trial
from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import Home, trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.provenance import RECORD, provenance
from asr_platform.tracking.runs import DESCRIPTION, FAILURES, LEDGER, LEFT, Tracker, datasets_of, experiment_of
from asr_platform.tracking.ui import VIEW, address_of_view, view_of_sweep
from search_spaces.space import Space
from trainables.config import Config
from trainables.config_parsing import flatten
from trainables.data.corpus import Corpus
from trainables.evaluation.examples import Examples

NOTE = "mlflow_note"  # noted in the ledger: the description of the sweep's run as it was last set
LONG = 1.0  # seconds after which a store that fails is left alone for a while
REST = 20  # times as long as its failure took: so one that does not answer takes a twentieth of the driver's time


class MLflowCallback(Callback):
    """One sweep in MLflow.

    Args:
        say: tells a person, once each time that the store goes away.
        dashboard: the address of Ray's, while the sweep runs.
    """

    def __init__(
        self, home: Home, ledger: Ledger, space: Space, corpus: Corpus, say: Callable[[str], None], dashboard: str = ""
    ) -> None:
        self.home, self.ledger, self.space, self.corpus = home, ledger, space, corpus
        self.say, self.dashboard = say, dashboard
        self.folder = home.sweep(ledger.name)
        self.errors = RecordedErrors(self.folder)
        self.tracker: Tracker | None = None
        self.parent = ""
        self.away = False
        self.missed: set[int] = set()  # trials whose runs are behind the ledger
        self.recorded = False  # whether what the sweep rests on has been kept
        self.rests_until = 0.0

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        self.show_all()

    def on_trial_start(self, trial: TrialRecord) -> None:
        self.show(trial.number)

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self.show(trial.number)

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.show(trial.number)

    def show(self, *numbers: int) -> None:
        """Brings these trials' runs up to the ledger, then those that were missed; makes runs where there are none."""
        others = sorted(self.missed.difference(numbers))
        self.missed.update(numbers)
        for number in [*numbers, *others]:
            if not self.attempt(partial(self._show, number=number)):
                return
            self.missed.discard(number)
        self.away = False

    def show_all(self) -> None:
        """The same for every trial: what a sweep begins with."""
        self.show(*(trial.number for trial in self.ledger.trials()))
        self.attempt(self._keep_record)

    def end(self, status: str, best: TrialRecord | None, reason: str = "") -> None:
        """Closes the sweep's run and the runs of interrupted trials, with their plots.

        Args:
            status: MLflow's name of the state in which the sweep ends, such as FINISHED.
            best: the trial whose metrics the sweep's run gets.
            reason: why the sweep ended early.
        """
        self.rests_until = 0.0
        trials = self.ledger.trials()
        # A trial that was proposed as the sweep stopped has never started, and nobody has told of it.
        with suppress(LedgerError):  # its disk may be full, and MLflow elsewhere
            self.show(*(trial.number for trial in trials if "mlflow_run_id" not in trial.about))
        trials = self.ledger.trials()
        steps: list[Callable[[Tracker], None]] = [] if self.recorded else [self._keep_record]
        steps += [partial(self._leave, trial=trial) for trial in trials if trial.state == "running"]
        steps.append(lambda tracker: tracker.keep(self.parent, PLOTS, partial(draw_sweep, trials)))
        steps.append(lambda tracker: tracker.end_sweep(self.parent, status, best, reason))
        done = [self.attempt(step) for step in steps]
        if self.missed or not all(done):
            self.say(f"MLflow has not been told everything: platform doctor {self.ledger.name} --repair will tell it")

    def attempt(self, step: Callable[[Tracker], None]) -> bool:
        """Connects to the store and runs `step`; returns False, after a message, where the store fails."""
        start = time.monotonic()
        if start < self.rests_until:
            return False
        try:
            if self.tracker is None:
                tracker = self._connect()
                self.parent = self._open_parent(tracker)
                self.tracker = tracker
            step(self.tracker)
        except FAILURES as error:
            if not self.away:
                self.say(f"MLflow cannot be written ({_root(error)}); it will be told later")
            self.away = True
            now = time.monotonic()
            if now - start > LONG:
                self.rests_until = now + REST * (now - start)
            return False
        return True

    def _connect(self) -> Tracker:
        return Tracker(self.home.store(self.ledger.about), experiment_of(self.corpus))

    def _open_parent(self, tracker: Tracker) -> str:
        """The sweep's own run, reopened, or made where there is none (any more), with what is known of the sweep."""
        about, space = self.ledger.about, self.space
        parent = about.get("mlflow_run_id")
        if parent is None or not tracker.reopen(parent):
            params = {
                "corpus": about["corpus"],
                "corpus_hash": about["corpus_hash"],
                "trials": about["trials"],
                "budget": space.settings.budget,
                "epochs": space.settings.epochs,
                **{f"asha.{key}": value for key, value in space.settings.asha.model_dump().items()},
                "seed": space.settings.seed,
            }
            tags = {"kind": "sweep", "space": space.source, LEDGER: self.ledger.id, **provenance()}
            parent = tracker.start(self.ledger.name, params, tags, datasets=self._datasets(space.config({})))
            self.ledger.note("mlflow_run_id", parent)
        if self.dashboard:
            tracker.tag(parent, {"ray_dashboard": self.dashboard})
        self._describe(tracker, parent)
        return str(parent)

    def _describe(self, tracker: Tracker, parent: str) -> None:
        """A view of the trials, and links to it from the sweep's run."""
        name, key = self.ledger.name, f"{self.ledger.name}-{self.ledger.id[:8]}"
        tracker.offer_view(key, view_of_sweep(name, parent, self.space))
        addresses = [address_of_view(tracker.experiment, key, charts) for charts in (False, True)]
        self.ledger.note(VIEW, addresses[0])
        lines = [f"[The trials, best first]({addresses[0][1:]})", f"[The best ten in charts]({addresses[1][1:]})"]
        if self.dashboard:
            lines.append(
                f"[Ray's dashboard]({self.dashboard}), while the sweep runs; `ray get-auth-token` prints its token"
            )
        text = "\n\n".join(lines)
        tracker.describe(parent, text, self.ledger.about.get(NOTE))
        self.ledger.note(NOTE, text)

    def _show(self, tracker: Tracker, number: int) -> None:
        trial = self.ledger.trial(number)
        run_id = trial.about.get("mlflow_run_id")
        if run_id is None or not tracker.knows(run_id):
            config = self.space.config(trial.params)
            params = {**dict(flatten(config.model_dump(mode="json"))), "parameters": trial.about["parameters"]}
            tags = {
                "kind": "trial", "sweep": self.ledger.name, "state": "running",
                "corpus_hash": self.ledger.about["corpus_hash"], DESCRIPTION: _varied(trial.params), **provenance(),
            }  # fmt: skip
            run_id = tracker.start(trial_name(number), params, tags, self.parent, self._datasets(config))
            self.ledger.describe(number, "mlflow_run_id", run_id)
            trial = self.ledger.trial(number)
        if trial.state != "running" and not tracker.ended(run_id):
            self._keep(tracker, trial)
        tracker.catch_up(run_id, trial, lambda: self._standing(trial))

    def _standing(self, trial: TrialRecord) -> dict[str, str]:
        """The interval of its CER, where its errors are on record."""
        errors = self.errors.of(trial)
        return {"interval": str(error_interval(errors))} if errors else {}

    def _keep_record(self, tracker: Tracker) -> None:
        """What the latest run of the sweep rests on."""
        record = self.folder / RECORD
        if record.is_dir():
            tracker.keep(self.parent, RECORD, partial(_copy, record))
        self.recorded = True

    def _keep(self, tracker: Tracker, trial: TrialRecord) -> None:
        """Pictures of a trial and, where its best checkpoint has them, its transcripts as a table."""
        run_id = trial.about.get("mlflow_run_id")
        if run_id is None or not trial.curve:
            return
        tracker.keep(run_id, PLOTS, partial(draw_trial, trial))
        examples = Examples.load(Path(trial.checkpoint)) if trial.checkpoint else None
        if examples is not None:
            tracker.keep_table(run_id, f"examples_epoch_{examples.epoch}.json", examples.columns())

    def _leave(self, tracker: Tracker, trial: TrialRecord) -> None:
        """An interrupted trial's run is closed until the trial goes on: nobody writes to it meanwhile."""
        self._keep(tracker, trial)
        if run_id := trial.about.get("mlflow_run_id"):
            tracker.close(run_id, LEFT)

    def _datasets(self, config: Config) -> list[Any]:
        data = config.data
        splits = {"train": self.corpus.training_name(data.train), "dev": self.corpus.validation_name(data.validation)}
        return datasets_of(self.corpus, splits)


def _root(error: BaseException) -> str:
    """What is at the bottom of it, in one line: clients of a server wrap a refused connection in paragraphs."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return " ".join(str(error).split())[:200] or type(error).__name__


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _varied(params: Mapping[str, Any]) -> str:
    """What tells a trial from the others, among the many parameters that its page lists."""
    return ", ".join(f"{key} **{value}**" for key, value in params.items())
