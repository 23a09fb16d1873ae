"""Asks the driver of a sweep to stop, pause, unpause or add a trial, or to change the number of trials and the caps.

Each function checks that this can be done, and then writes the request. Earlier requests that wait count as done.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_platform.storage.paths import folder_size
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.recorded_space import recorded_space
from asr_platform.study.run_record import RUN, SPENT
from asr_platform.study.samplers import identity
from asr_platform.study.spending import caps, device_seconds
from asr_platform.study.steering.requests import Request, pending, write
from search_spaces.settings import Limits
from search_spaces.space import Space, plain
from trainables.errors import InputError

if TYPE_CHECKING:
    from trainables.data.corpus import Corpus


def stop(ledger: Ledger, number: int) -> Request:
    """Asks for the end of an unfinished trial, which then counts as pruned.

    Raises:
        InputError: there is no such trial, or it has ended.
    """
    _unfinished(ledger, number)
    return write(ledger, "stop", {"trial": number})


def pause(ledger: Ledger, number: int) -> Request:
    """Asks for a pause of an unfinished trial; other trials get its place until it is unpaused.

    Raises:
        InputError: there is no such trial, or it has ended or is paused.
    """
    if _is_paused(ledger, _unfinished(ledger, number)):
        raise InputError(
            f"trial {number} of {ledger.name} is paused", f"Go on with it: platform unpause {ledger.name} {number}."
        )
    return write(ledger, "pause", {"trial": number})


def unpause(ledger: Ledger, number: int) -> Request:
    """Asks that a paused trial goes on from its checkpoint.

    Raises:
        InputError: there is no such trial, or it has ended or is not paused.
    """
    if not _is_paused(ledger, _unfinished(ledger, number)):
        raise InputError(
            f"trial {number} of {ledger.name} is not paused",
            f"Nothing needs to be done; to go on with the sweep: platform sweep --resume {ledger.name}.",
        )
    return write(ledger, "unpause", {"trial": number})


def add(ledger: Ledger, values: Mapping[str, Any]) -> Request:
    """Asks for one more trial with these values, by key; keys that are left out have the value of the space's base.

    Raises:
        InputError: a key does not vary in the sweep's space, a value is outside of it, the model is over the budget or
            cannot be trained on the corpus, or a trial has these values.
    """
    from asr_platform.study.feasibility import Feasibility  # torch, for which the other requests need not wait

    space = recorded_space(ledger.about)
    asked = _proposed(space, values)
    made = [trial.params for trial in ledger.trials()]
    waiting = [request.content["values"] for request in pending(ledger) if request.kind == "add"]
    for number, others in enumerate([*made, *waiting]):
        if identity(space, others) == identity(space, asked):
            who = f"trial {number} has" if number < len(made) else "a trial that is already asked for has"
            raise InputError(f"{who} these values", "It would be trained to the same result: change a value.")
    Feasibility(space, _corpus(ledger)).trial(asked)
    return write(ledger, "add", {"values": asked})


def change(ledger: Ledger, folder: Path, trials: int | None, limits: Limits) -> Request:
    """Asks for another number of trials, or other caps on what is spent.

    Args:
        folder: folder of the sweep, whose size is compared with a cap on disk space.
        trials: number of trials, the present ones included; None keeps it.
        limits: limits that are set here replace the sweep's own.

    Raises:
        InputError: nothing is asked for, fewer trials than have begun, or a cap below what is spent.
    """
    changed = limits.model_dump(exclude_none=True)
    if trials is None and not changed:
        raise InputError("nothing to change", "Give --trials, or a cap such as --max-hours.")
    begun = len(ledger.trials()) + sum(request.kind == "add" for request in pending(ledger))
    if trials is not None and trials < begun:
        raise InputError(f"--trials {trials}: {begun} trials have begun", f"Ask for at least {begun}.")
    about = ledger.about
    workers = int(about.get(RUN, {}).get("workers", 1))
    spent = sum(device_seconds(trial.curve, workers) for trial in ledger.trials())
    disk = folder_size(folder) if limits.disk_gb else 0.0
    for cap in caps(limits.model_dump(), float(about.get(SPENT, 0.0)), spent, disk):
        if cap.most and cap.spent >= cap.most:
            raise InputError(f"{cap.most:g} {cap.name}: {cap.spent:.3g} are spent", "Ask for more than that.")
    return write(ledger, "change", {"trials": trials, "limits": changed})


def _proposed(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a proposal of the space; raises an InputError that names each value which it excludes."""
    if not space.vary:
        raise InputError(f"{space.source}: nothing varies in this space", "Start a sweep of a space in which it does.")
    proposed, wrong = space.with_base({key: plain(key, value) for key, value in values.items()})
    if wrong:
        base = "it is the base's: give the key a value"
        shown = [
            f"{key}={values[key]}: {why}" if key in values else f"{key}: {why}; {base}" for key, why in wrong.items()
        ]
        raise InputError("; ".join(shown), f"What varies: {', '.join(space.vary)}; see the space {space.source}.")
    return proposed


def _corpus(ledger: Ledger) -> Corpus:
    from trainables.data.corpus import Corpus

    corpus = Corpus.open(Path(ledger.about["corpus"]))
    if corpus.hash != ledger.about["corpus_hash"]:
        raise InputError(f"{corpus.path}: not the corpus that sweep {ledger.name} began with", "Put that one back.")
    return corpus


def _unfinished(ledger: Ledger, number: int) -> TrialRecord:
    trials = ledger.trials()
    if not 0 <= number < len(trials):
        raise InputError(f"no trial {number} in the sweep {ledger.name}", f"It has {len(trials)}, counted from 0.")
    stopped = any(one.kind == "stop" and one.content["trial"] == number for one in pending(ledger))
    if stopped or trials[number].state != "running":
        state = "about to be stopped" if stopped else trials[number].state
        raise InputError(
            f"trial {number} of {ledger.name} has ended: {state}",
            f"For more trials: platform add, or platform change {ledger.name} --trials N.",
        )
    return trials[number]


def _is_paused(ledger: Ledger, trial: TrialRecord) -> bool:
    """Whether a trial is paused once the requests that wait are acted on."""
    asked = [one.kind for one in pending(ledger) if one.content.get("trial") == trial.number]
    return asked[-1] == "pause" if asked else trial.paused
