"""Other processes, which ask for something while a driver runs, and what must have become of it in the end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

from hands import Clock

from asr_platform.study.ledger import REQUEST, Ledger
from asr_platform.study.steering import asking, requests
from search_spaces.settings import Limits
from trainables.errors import InputError

MOST_TRIALS = 6  # that are asked for
START = [0.0, 0.05, 0.1, 0.15]  # what the first trials of a schedule's space have
ADDED = 0.16, 0.2  # bounds of what added trials have


def ask(random: Random, ledger: Ledger, folder: Path, trials: int) -> None:
    """Asks for something at random, if it can be done.

    Args:
        folder: folder of the sweep.
        trials: number of trials at the sweep's start, which is the least that is asked for.
    """
    number, more = random.randrange(trials), len(ledger.trials()) + random.randint(0, 1)
    with suppress(InputError):
        match random.choice(["stop", "pause", "pause", "unpause", "add", "change"]):
            case "stop":
                asking.stop(ledger, number)
            case "pause":
                asking.pause(ledger, number)
            case "unpause":
                asking.unpause(ledger, number)
            case "change":
                asked = more if trials <= more < MOST_TRIALS else None
                asking.change(ledger, folder, asked, Limits(hours=random.uniform(1, 2)))
            case "add":  # as `asking.add`, which would make a tokenizer each time
                if ledger.about["trials"] + len(requests.pending(ledger)) < MOST_TRIALS:
                    requests.write(ledger, "add", {"values": {"model.dropout": random.uniform(*ADDED)}})


def ask_for_the_paused(ledger: Ledger, clock: Clock) -> None:
    """Asks that all paused trials go on."""
    for trial in ledger.trials():
        if trial.paused:
            asking.unpause(ledger, trial.number)
            clock.sleep(1)  # requests are ordered by time


def check_requests(ledger: Ledger) -> set[int]:
    """Checks that each request was done once; returns the numbers of the trials that somebody wanted to stop."""
    asked, trials = requests.read(ledger), ledger.trials()
    unanswered = [one for one in asked if not one.answer]
    assert not unanswered, unanswered
    stopped = {one.content["trial"] for one in asked if one.kind == "stop"}
    assert all(trials[number].state != "running" for number in stopped)
    added = [trial for trial in trials if REQUEST in trial.about]
    values = {one.key: one.content["values"] for one in asked if one.kind == "add"}
    assert {trial.about[REQUEST]["key"]: trial.params for trial in added} == values and len(added) == len(values)
    others = [trial.params["model.dropout"] for trial in trials if trial not in added]
    assert others[: len(START)] == START[: len(others)], "an entry of `start` is left out"
    return stopped
