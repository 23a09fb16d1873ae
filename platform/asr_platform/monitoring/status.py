"""How sweeps stand, for whoever looks on from another process: read from the ledger, and from the lock of its driver.

Nothing here writes, and nothing is asked of the driver, which may have been killed at any moment. What it left on
record counts; whether it lives, the lock says, which the system frees with the process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from asr_platform.analysis.leaderboard import ranked
from asr_platform.monitoring.time_left import time_left
from asr_platform.storage.database import open_storage
from asr_platform.storage.home import SWEEP, Home, folder_size
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.run_record import RUN, SPENT, STOPPED
from asr_platform.study.spending import Cap, caps, device_seconds
from search_spaces.settings import Limits
from trainables.evaluation.metrics import objective, objective_value

State = Literal["running", "finished", "capped", "stopped", "failed", "died"]


@dataclass(frozen=True)
class Status:
    """How one sweep stands.

    Args:
        state: `finished`: all trials have ended; `capped`, `stopped` (by Ctrl-C) and `failed` (with an error of the
            platform's): it can be resumed; `died`: its driver could not say why it ended, and it can be resumed.
        reason: why the sweep is in this state, in words.
        asked: the number of trials that the sweep is to have.
        epochs: the number of epochs of a full trial.
        training: numbers of the trials that workers train now.
        left: seconds that the sweep will still take; None if it is not running, or nothing is known yet.
        heard: when the latest epoch went on record or the sweep ended, in seconds since 1970; None if that is not on
            record.
    """

    name: str
    state: State
    reason: str
    trials: list[TrialRecord]
    asked: int
    epochs: int
    training: frozenset[int]
    left: float | None
    heard: float | None
    caps: list[Cap]
    process: int | None
    dashboard: str

    @property
    def best(self) -> TrialRecord | None:
        return next((trial for trial in ranked(self.trials) if trial.best), None)

    @property
    def unfinished(self) -> list[TrialRecord]:
        """Trials that have not ended: first those in training, then those that wait for their turn, or for a driver."""
        found = [trial for trial in self.trials if trial.state == "running"]
        return sorted(found, key=lambda trial: (trial.number not in self.training, trial.number))

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials asked for, begun, running, waiting, complete, pruned and failed."""
        ended = Counter(trial.state for trial in self.trials)
        waiting = ended.pop("running", 0) - len(self.training)
        return {"asked": self.asked, "begun": len(self.trials), "running": len(self.training), "waiting": waiting} | {
            state: ended[state] for state in ("complete", "pruned", "failed")
        }

    def as_tree(self) -> dict[str, Any]:
        """The status as a JSON tree; rates are fractions, and times are in seconds."""
        best = self.best
        return {
            "sweep": self.name,
            "state": self.state,
            "reason": self.reason,
            "trials": self.counts,
            "epochs": self.epochs,
            "best": {"trial": best.number, **_figure(best)} if best else None,
            "seconds_left": self.left,
            "heard": self.heard,
            "caps": {cap.name.partition(" (")[0]: {"spent": cap.spent, "most": cap.most} for cap in self.caps},
            "process": self.process,
            "dashboard": self.dashboard or None,
            "unfinished": [
                {
                    "trial": trial.number,
                    "state": "running" if trial.number in self.training else "waiting",
                    "epoch": trial.epochs,
                    "parameters": trial.about.get("parameters"),
                    **_figure(trial),
                }
                for trial in self.unfinished
            ],
        }


def _figure(trial: TrialRecord) -> dict[str, float | None]:
    """The objective of a trial at its best epoch, by its metric's name; a CER of None before the first epoch."""
    return {objective(trial.best): objective_value(trial.best)} if trial.best else {"val_cer": None}


def status(home: Home, name: str, storage: optuna.storages.BaseStorage | None = None) -> Status:
    """How the sweep of that name stands.

    The lock is looked at before and after the ledger: a driver that begins or ends meanwhile has not died.

    Raises:
        InputError: there is no sweep of that name.
    """
    ledger = Ledger.open(storage or home.studies, name)
    before = home.holder(name)
    about, trials, now = ledger.about, ledger.trials(), time.time()
    holder = next((one for one in (before, home.holder(name)) if one.startswith(SWEEP)), "")
    unfinished = {trial.number for trial in trials if trial.state == "running"}
    done = len(trials) >= about["trials"] and not unfinished
    state, reason = state_of(about, done, bool(holder), home.model(name).is_dir())
    run: Mapping[str, Any] = about.get(RUN, {})
    own = holder == f"{SWEEP} {run.get('process')}"  # a driver that has just begun is not yet on record
    workers = int(run.get("workers", 1))
    limits = Limits.model_validate(about.get("limits") or {})
    rows = [row for trial in trials for row in trial.curve]
    disk = folder_size(home.sweep(name)) if limits.disk_gb else 0.0
    return Status(
        name=name,
        state=state,
        reason=reason,
        trials=trials,
        asked=about["trials"],
        epochs=about["epochs"],
        training=frozenset(unfinished & set(run["training"] if own else [])),
        left=time_left(about, trials, about["epochs"], now) if own else None,
        heard=run.get("heard") or _latest_end(ledger),
        caps=caps(limits, float(about.get(SPENT, 0.0)), device_seconds(rows, workers), disk),
        process=int(holder.removeprefix(SWEEP)) if holder else None,
        dashboard=run["dashboard"] if own else "",
    )


def training(home: Home, ledger: Ledger) -> frozenset[int]:
    """Numbers of the trials that workers of the sweep train now."""
    run = ledger.about.get(RUN, {})
    own = home.holder(ledger.study.study_name) == f"{SWEEP} {run.get('process')}"
    return frozenset(run["training"] if own else [])


def all_statuses(home: Home) -> list[Status]:
    """Status of every sweep in a home, the latest last."""
    storage, _ = open_storage(home.studies)
    return [status(home, name, storage) for name in Ledger.names(storage)]


def state_of(about: Mapping[str, Any], done: bool, held: bool, modelled: bool) -> tuple[State, str]:
    """The state of a sweep, and the reason for it in words.

    Args:
        about: what its ledger notes.
        done: whether all of its trials have ended.
        held: whether a driver holds its lock.
        modelled: whether the winner's model directory is there.
    """
    run = about.get(RUN)
    if held:
        return "running", ""
    if run is None:  # a sweep of before there was such a record
        return ("finished", "") if done else ("capped" if about.get(STOPPED) else "stopped", about.get(STOPPED, ""))
    if run["state"] == "running":
        if done and modelled:
            return "finished", ""
        return "died", "its driver was killed, or the machine went down"
    if run["state"] == "finished" and about["trials"] > run["trials"]:
        return "stopped", f"{about['trials'] - run['trials']} more trials are asked for"
    return run["state"], run["reason"]


def _latest_end(ledger: Ledger) -> float | None:
    """When the trial ended that ended last, in seconds since 1970."""
    ends = [trial.datetime_complete for trial in ledger.frozen() if trial.datetime_complete]
    return max(ends).timestamp() if ends else None
