"""Acts on requests, as the driver of a sweep does.

A driver that is killed between an act and its answer acts again: every act can be repeated without a further effect.
"""

from __future__ import annotations

from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import PAUSED, REQUEST, Ledger, TrialRecord
from asr_platform.study.recorded_space import recorded_limits
from asr_platform.study.spending import caps
from asr_platform.study.steering.requests import Request, answer, pending
from search_spaces.settings import Limits
from trainables.errors import InputError

STOPPED_ON_REQUEST = "stopped on request"  # reason of a trial's end


def act_on_pending(ledger: Ledger, feasibility: Feasibility) -> list[Request]:
    """Acts on all requests that wait, and answers them; returns the requests.

    The sweep's lock must be held.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    requests = pending(ledger)
    for request in requests:
        answer(ledger, request, _act(ledger, feasibility, request))
    return requests


def added_for(ledger: Ledger, request: Request) -> TrialRecord | None:
    """The trial that was added for a request; None if there is none."""
    return next((trial for trial in ledger.trials() if trial.about.get(REQUEST, {}).get("key") == request.key), None)


def _act(ledger: Ledger, feasibility: Feasibility, request: Request) -> str:
    match request.kind:
        case "add":
            return _add(ledger, feasibility, request)
        case "change":
            return _change(ledger, request)
    number = int(request.content["trial"])
    trial = ledger.trial(number)
    has_all_epochs = trial.epochs >= ledger.about["epochs"]  # not yet recorded as complete
    stopped = trial.state != "running" and trial.reason == STOPPED_ON_REQUEST  # before the last driver was killed
    if not stopped and (trial.state != "running" or has_all_epochs):
        return f"trial {number} has ended: {'complete' if has_all_epochs else trial.state}"
    if request.kind == "stop":
        if not stopped:
            ledger.finish(number, "pruned", STOPPED_ON_REQUEST)
        return f"trial {number} is stopped{_after(trial.epochs)}"
    if stopped:
        return f"trial {number} has ended: stopped"
    ledger.describe(number, PAUSED, request.kind == "pause")
    return f"trial {number} {'is paused' if request.kind == 'pause' else 'goes on'}{_after(trial.epochs)}"


def _after(epochs: int) -> str:
    return f" after epoch {epochs}" if epochs else ", before its first epoch has ended"


def _add(ledger: Ledger, feasibility: Feasibility, request: Request) -> str:
    """Adds a trial, and raises the number of trials by one."""
    done = added_for(ledger, request)
    if done is None:
        values = request.content["values"]
        try:
            proposal = feasibility.trial(values)
        except InputError as error:  # what it needs has changed since it was asked for
            return f"no trial is added: {error.problem}"
        facts = {"key": request.key, "trials": int(ledger.about["trials"]) + 1}
        done = ledger.add(feasibility.space, values, proposal, facts)
    asked = done.about[REQUEST]["trials"]  # written with the trial: raising the number twice has no effect
    ledger.note("trials", asked)
    return f"trial {done.number} is added ({done.about['parameters']:,} parameters); {asked} trials"


def _change(ledger: Ledger, request: Request) -> str:
    """Changes the number of trials and the caps, and says all of them."""
    asked, limits = request.content["trials"], Limits.model_validate(request.content["limits"])
    if asked is not None:
        ledger.note("trials", max(asked, len(ledger.trials())))
    if limits.model_dump(exclude_none=True):
        ledger.note("limits", recorded_limits(ledger.about).replaced_by(limits).model_dump())
    about = ledger.about
    bounds = [f"{cap.most:g} {cap.name}" for cap in caps(recorded_limits(about).model_dump(), 0, 0, 0) if cap.most]
    return "; ".join([f"{about['trials']} trials, {len(ledger.trials())} of them begun", *bounds])
