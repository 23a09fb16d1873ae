"""Status of sweeps as seen from another process, read from the ledger and from the lock of the sweep's driver.

Nothing is written, and the driver is not asked: it may have been killed at any moment. The operating system frees its
lock when its process ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from asr_platform.analysis.leaderboard import ranked
from asr_platform.monitoring.time_left import time_left
from asr_platform.storage.database import open_storage
from asr_platform.storage.home import SWEEP, Home
from asr_platform.storage.paths import folder_size
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.run_record import RUN, SPENT, STOPPED, last_heartbeat
from asr_platform.study.spending import Cap, caps, device_seconds
from asr_platform.study.steering.notes import note_of
from asr_platform.study.steering.requests import pending
from trainables.evaluation.metrics import objective, objective_value

State = Literal["running", "finished", "capped", "paused", "stopped", "failed", "died"]


@dataclass(frozen=True)
class Status:
    """Status of one sweep.

    Args:
        state: `running`; `finished` (all trials have ended); or `stopped` (Ctrl-C), `capped` (spending limit), `paused`
            (only paused trials are left), `failed` (error of the platform) or `died` (the driver was killed), from
            which a sweep can be resumed.
        reason: reason for the state, in words.
        asked: number of trials of the finished sweep.
        epochs: length of a full trial in epochs.
        training: numbers of the trials that workers train now.
        requests: what other processes have asked for, and the driver has not done yet, such as `pause 3`.
        left: estimated seconds until the end of the sweep; None if it is not running, or has no finished epoch.
        last_heartbeat: time of the latest recorded epoch or of the run's end, in seconds since 1970; None if unknown.
    """

    name: str
    state: State
    reason: str
    trials: list[TrialRecord]
    asked: int
    epochs: int
    training: frozenset[int]
    requests: list[str]
    left: float | None
    last_heartbeat: float | None
    caps: list[Cap]
    process: int | None
    dashboard: str

    @property
    def best(self) -> TrialRecord | None:
        """Best trial; None before the first finished epoch."""
        return next((trial for trial in ranked(self.trials) if trial.best), None)

    @property
    def unfinished(self) -> list[TrialRecord]:
        """Unfinished trials: first those in training, then those that wait, by number."""
        found = [trial for trial in self.trials if trial.state == "running"]
        return sorted(found, key=lambda trial: (trial.number not in self.training, trial.number))

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of trials by state: asked, begun, running, waiting, paused, complete, pruned and failed."""
        ended = Counter(trial.state for trial in self.trials)
        paused = sum(trial.paused for trial in self.trials)
        waiting = ended.pop("running", 0) - len(self.training) - paused
        unfinished = {"running": len(self.training), "waiting": waiting, "paused": paused}
        return (
            {"asked": self.asked, "begun": len(self.trials)}
            | unfinished
            | {state: ended[state] for state in ("complete", "pruned", "failed")}
        )

    def _state_of(self, trial: TrialRecord) -> str:
        """State of an unfinished trial."""
        return trial.shown_state(trial.number in self.training)

    def as_tree(self) -> dict[str, Any]:
        """The status as a JSON object; error rates are fractions, times are in seconds."""
        best = self.best
        return {
            "sweep": self.name,
            "state": self.state,
            "reason": self.reason,
            "trials": self.counts,
            "epochs": self.epochs,
            "best": {"trial": best.number, **_figure(best)} if best else None,
            "seconds_left": self.left,
            "last_heartbeat": self.last_heartbeat,
            "heard": self.last_heartbeat,  # former name, kept for this version
            "caps": {cap.name.partition(" (")[0]: {"spent": cap.spent, "most": cap.most} for cap in self.caps},
            "process": self.process,
            "dashboard": self.dashboard or None,
            "requests": self.requests,
            "notes": {str(trial.number): text for trial in self.trials if (text := note_of(trial))},
            "unfinished": [
                {
                    "trial": trial.number,
                    "state": self._state_of(trial),
                    "epoch": trial.epochs,
                    "parameters": trial.about.get("parameters"),
                    **_figure(trial),
                }
                for trial in self.unfinished
            ],
        }


def _figure(trial: TrialRecord) -> dict[str, float | None]:
    """Value of the ranking metric at the best epoch, by its name; a CER of None before the first epoch."""
    return {objective(trial.best): objective_value(trial.best)} if trial.best else {"val_cer": None}


def status(home: Home, name: str, storage: optuna.storages.BaseStorage | None = None) -> Status:
    """Status of the sweep `name`.

    The lock is read before and after the ledger, since a driver that begins or ends in between has not died.

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
    own = holder == f"{SWEEP} {run.get('process')}"  # a driver that has just begun has not recorded its run yet
    workers = int(run.get("workers", 1))
    limits: Mapping[str, float | None] = about.get("limits") or {}
    devices = sum(device_seconds(trial.curve, workers) for trial in trials)
    disk = folder_size(home.sweep(name)) if limits.get("disk_gb") else 0.0
    return Status(
        name=name,
        state=state,
        reason=reason,
        trials=trials,
        asked=about["trials"],
        epochs=about["epochs"],
        training=frozenset(unfinished & set(run["training"] if own else [])),
        requests=[f"{one.kind} {one.shown}" for one in pending(ledger)],
        left=time_left(about, trials, about["epochs"], now) if own else None,
        last_heartbeat=last_heartbeat(run) or _latest_end(ledger),
        caps=caps(limits, float(about.get(SPENT, 0.0)), devices, disk),
        process=int(holder.removeprefix(SWEEP)) if holder else None,
        dashboard=run["dashboard"] if own else "",
    )


def waiting(home: Home, ledger: Ledger, trials: Sequence[TrialRecord]) -> frozenset[int]:
    """Numbers of the unfinished trials that no worker trains now, paused ones among them."""
    return frozenset(trial.number for trial in trials if trial.state == "running") - training(home, ledger)


def training(home: Home, ledger: Ledger) -> frozenset[int]:
    """Numbers of the trials that the sweep's workers train now."""
    run = ledger.about.get(RUN, {})
    own = home.holder(ledger.study.study_name) == f"{SWEEP} {run.get('process')}"
    return frozenset(run["training"] if own else [])


def all_statuses(home: Home) -> list[Status]:
    """Statuses of all sweeps in a home, the latest sweep last."""
    storage, _ = open_storage(home.studies)
    return [status(home, name, storage) for name in Ledger.names(storage)]


def state_of(about: Mapping[str, Any], done: bool, held: bool, modelled: bool) -> tuple[State, str]:
    """The state of a sweep, and the reason for it in words.

    Args:
        about: facts about the sweep (`Ledger.about`).
        done: whether all trials have ended.
        held: whether a driver holds the sweep's lock.
        modelled: whether the best model's directory exists.
    """
    run = about.get(RUN)
    if held:
        return "running", ""
    if run is None:  # a sweep of an older version
        return ("finished", "") if done else ("capped" if about.get(STOPPED) else "stopped", about.get(STOPPED, ""))
    if run["state"] == "running":
        if done and modelled:
            return "finished", ""
        return "died", "its driver was killed, or the machine went down"
    if run["state"] == "finished" and about["trials"] > run["trials"]:
        return "stopped", f"{about['trials'] - run['trials']} more trials are asked for"
    return run["state"], run["reason"]


def _latest_end(ledger: Ledger) -> float | None:
    """Latest end of a trial, in seconds since 1970; None if none has ended."""
    ends = [trial.datetime_complete for trial in ledger.frozen() if trial.datetime_complete]
    return max(ends).timestamp() if ends else None
