"""What a sweep does next: unfinished trials, promising ones, new ones, and those that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import records
from ray.tune.search import Searcher

from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import Ledger
from asr_platform.study.recorded_space import RECORDED_DEFAULTS, defaults_to_record, recorded_space
from asr_platform.tuning.loop.proposer import Proposer
from search_spaces.settings import Asha, Settings
from trainables.data.corpus import Corpus

ASHA = "asha: {promotion: 2}"
WAITING = records.SPACE.replace("asha: {grace: 3, promotion: null, reduction: 3}", ASHA)
EPOCHS = 9
LEVELS = [2, 3, 4, 7, EPOCHS]  # where trials wait, and their end


class Hands:
    """Stands where Ray Tune stands: asks for trials, reports their epochs, says when they end."""

    def __init__(self, ledger: Ledger, corpus: Corpus, text: str) -> None:
        self.ledger, self.said = ledger, list[str]()
        feasibility = Feasibility(records.space(text), corpus)
        self.most = 100  # trials at once
        self.proposer = Proposer(ledger, feasibility, {"threads": 1}, self.place, self.said.append)
        self.asked = 0

    def place(self, training: Sequence[int], beginning: Callable[[], int]) -> dict[str, Any] | None:
        return {"nodes": f"for {len(training) + 1}"} if len(training) < self.most else None

    def ask(self) -> tuple[str, Any]:
        """Tune's name for the next trial, and what the proposer says it is."""
        self.asked += 1
        name = f"tune{self.asked}"
        told = self.proposer.suggest(name)
        given_up = self.proposer.promotions.given_up
        while given_up:
            self.ledger.finish(given_up.popitem()[0], "pruned", "no chance")
        return name, told

    def train(self, name: str, told: dict[str, Any], cer: float) -> None:
        """Up to where the trial is to be left off; the recorder is told last, as Tune does."""
        for epoch in range(told["reported_epochs"] + 1, told["until"] + 1):
            self.ledger.record(told["number"], records.row(epoch, cer))
        self.proposer.on_trial_complete(name)
        if told["until"] == EPOCHS:
            self.ledger.finish(told["number"], "complete")

    def run(self, cers: dict[int, float]) -> list[tuple[int, int, int]]:
        """Trains all there is: the numbers, from where and how far each time, where trials have these CERs."""
        steps = []
        while (asked := self.ask())[1] != Searcher.FINISHED:
            name, told = asked
            steps.append((told["number"], told["reported_epochs"], told["until"]))
            self.train(name, told, cers[told["number"]])
        return steps

    def step(self, cer: float) -> tuple[int, int, int]:
        """Trains the next one: its number, from where and to where."""
        name, told = self.ask()
        self.train(name, told, cer)
        return told["number"], told["reported_epochs"], told["until"]


def test_without_a_look_trials_are_trained_one_after_the_other(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(2), tiny_corpus, records.SPACE)
    assert [hands.step(0.5), hands.step(0.4)] == [(0, 0, EPOCHS), (1, 0, EPOCHS)]
    assert hands.ask()[1] == Searcher.FINISHED


def test_the_best_is_trained_to_its_end_and_no_epoch_twice(tiny_corpus: Corpus) -> None:
    """Each trial goes from one epoch of promotion to the next; those without a chance are given up where they wait."""
    hands = Hands(records.ledger_in_memory(6), tiny_corpus, WAITING)
    steps = hands.run({0: 0.9, 1: 0.7, 2: 0.8, 3: 0.3, 4: 0.95, 5: 0.9})
    for number in range(6):
        mine = [(since, until) for one, since, until in steps if one == number]
        assert mine == list(pairwise([0, *LEVELS]))[: len(mine)] and mine
    ended = {trial.number: (trial.state, trial.epochs) for trial in hands.ledger.trials()}
    assert ended[3] == ("complete", EPOCHS) and hands.ledger.done
    assert {state for state, _ in ended.values()} == {"complete", "pruned"}
    assert sum(until - since for _, since, until in steps) < 6 * EPOCHS


def test_a_resumed_sweep_knows_what_an_uninterrupted_one_does(tiny_corpus: Corpus) -> None:
    """Trials whose CERs fall from one epoch of promotion to the next, the last of which fails between two of them."""
    hands = Hands(records.ledger_in_memory(3), tiny_corpus, WAITING)
    for cer in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        name, told = hands.ask()
        hands.train(name, told, cer)
    name, told = hands.ask()
    hands.ledger.record(told["number"], records.row(told["reported_epochs"] + 1, 0.01))
    hands.proposer.on_trial_complete(name, error=True)
    hands.ledger.finish(told["number"], "failed", "diverged")
    resumed = Proposer(hands.ledger, hands.proposer.feasibility, {}, hands.place, hands.said.append)
    for proposer in (hands.proposer, resumed):
        proposer.suggest("next")
    assert hands.proposer.promotions.curves == resumed.promotions.curves
    assert hands.proposer.promotions.lowest == resumed.promotions.lowest
    assert hands.proposer.promotions.ended == resumed.promotions.ended == {told["number"]}


def test_a_trial_that_a_rung_has_stopped_waits_no_more(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(2), tiny_corpus, WAITING)
    for _ in range(2):
        name, told = hands.ask()
        hands.train(name, told, 0.5)
        hands.ledger.finish(told["number"], "pruned", "rung at epoch 2")
    assert hands.ask()[1] == Searcher.FINISHED


def test_nothing_is_finished_while_a_trial_is_in_training(tiny_corpus: Corpus) -> None:
    """With two workers: whoever is left waits for the trial in training, which may become one that waits."""
    hands = Hands(records.ledger_in_memory(2), tiny_corpus, WAITING)
    (first, told), (second, other) = hands.ask(), hands.ask()
    assert (told["number"], told["until"], other["number"], other["until"]) == (0, 2, 1, 2)
    assert hands.ask()[1] is None
    hands.train(first, told, 0.4)
    hands.train(second, other, 0.5)
    assert {hands.step(0.4)[0] for _ in range(2)} <= {0, 1}


def test_no_trial_begins_after_a_signal(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(2), tiny_corpus, records.SPACE)
    name, told = hands.ask()
    hands.proposer.closed = lambda: True
    assert hands.ask()[1] is None and not hands.proposer.finished, "a trial is in training"
    hands.proposer.on_trial_complete(name)
    hands.proposer.retry(told["number"])  # interrupted
    assert hands.ask()[1] == Searcher.FINISHED and len(hands.ledger.trials()) == 1


def test_a_single_trial_waits_for_nobody(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(1), tiny_corpus, WAITING)
    assert hands.step(0.5) == (0, 0, EPOCHS)
    assert hands.ask()[1] == Searcher.FINISHED


def test_a_trial_begins_once_there_is_room_for_it(tiny_corpus: Corpus) -> None:
    """However many trials are there; without room, none is proposed, and the end is told all the same."""
    hands = Hands(records.ledger_in_memory(2), tiny_corpus, records.SPACE)
    hands.most = 0
    assert hands.ask()[1] is None and not hands.ledger.trials()
    hands.most = 1
    name, told = hands.ask()
    assert told["nodes"] == "for 1"
    assert hands.ask()[1] is None and len(hands.ledger.trials()) == 1
    hands.most = 2
    other, other_told = hands.ask()
    assert other_told["nodes"] == "for 2"
    hands.train(name, told, 0.5)
    hands.train(other, other_told, 0.5)
    hands.most = 0
    assert hands.ask()[1] == Searcher.FINISHED


AUTO = WAITING.replace("promotion: 2", "promotion: auto")


def test_trials_train_longer_before_they_wait_where_a_start_takes_as_long_as_many_epochs(tiny_corpus: Corpus) -> None:
    """The first trial, which waits after its first epoch, and one that is in training then, go on to the later look;
    so does a run that resumes the sweep."""
    ledger = records.ledger_in_memory(4)
    hands = Hands(ledger, tiny_corpus, AUTO)
    name, told = hands.ask()
    other, other_told = hands.ask()
    assert (told["until"], other_told["until"]) == (1, 1)
    ledger.record(0, records.row(1, 0.5))
    hands.proposer.measure(start=9.0, epoch=1.0)
    hands.proposer.on_trial_complete(name)
    hands.train(other, other_told, 0.6)
    assert len(hands.said) == 1 and "after 2 epochs: a trial's start took 9.0 s, an epoch 1.0 s" in hands.said[0]
    assert [hands.step(0.5), hands.step(0.6)] == [(0, 1, 2), (1, 1, 2)]
    assert hands.proposer.promotions.start == 9.0, "what a start costs decides about promotions"
    hands.proposer.measure(start=900.0, epoch=1.0)
    assert len(hands.said) == 1, "the choice is made once"
    begun = {"space": AUTO, "source": "again", "epochs": EPOCHS, RECORDED_DEFAULTS: defaults_to_record()}
    about = {**ledger.about, **begun}
    assert recorded_space(about).settings.promotions == hands.proposer.space.settings.promotions == LEVELS[:-1]
    explicit = {**about, "space": AUTO.replace("promotion: auto", "promotion: 1")}
    assert recorded_space(explicit).settings.promotions[0] == 1


@pytest.mark.parametrize(
    ("asha", "start", "epoch", "longer"),
    [
        ({}, 4.0, 10.0, None),
        ({}, 10.0, 2.0, None),
        ({}, 10.1, 2.0, 2),
        ({}, 30.0, 2.0, 3),
        ({}, 1e6, 2.0, 10),  # half of a trial
        ({"promotion": 1}, 1e6, 2.0, None),
        ({"promotion": None}, 1e6, 2.0, None),
    ],
)
def test_the_first_promotion_depends_on_the_time_of_a_start(
    asha: dict[str, Any], start: float, epoch: float, longer: int | None
) -> None:
    assert Settings(epochs=20, asha=Asha(**asha)).longer_promotion(start, epoch) == longer


def test_who_waits_is_known_from_the_ledger(tiny_corpus: Corpus) -> None:
    """After a kill, interrupted trials go on first, to where they would have waited; then what would have come next."""
    ledger = records.ledger_in_memory(5)
    before = Hands(ledger, tiny_corpus, WAITING)
    for (name, told), cer in zip([before.ask(), before.ask()], (0.9, 0.8), strict=True):
        before.train(name, told, cer)
    ledger.record(1, records.row(3, 0.7))
    ledger.record(0, records.row(3, 0.9))
    ledger.record(0, records.row(4, 0.9))
    ledger.record(0, records.row(5, 0.9))
    after, again = Hands(ledger, tiny_corpus, WAITING), Hands(ledger, tiny_corpus, WAITING)
    assert after.proposer.promotions.waiting == {1: 3} and list(after.proposer.unfinished) == [0]
    assert after.proposer.promotions.curves == again.proposer.promotions.curves
    assert after.step(0.9) == (0, 5, 7)
    assert after.proposer.promotions.waiting == {1: 3, 0: 7}


def test_a_look_that_fails_is_not_waited_for(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(1), tiny_corpus, WAITING)
    name, told = hands.ask()
    for epoch in (1, 2):
        hands.ledger.record(told["number"], records.row(epoch, 0.5))
    hands.proposer.on_trial_complete(name, error=True)
    hands.ledger.finish(told["number"], "failed", "lost")
    assert hands.ask()[1] == Searcher.FINISHED


def test_a_space_with_nothing_new_lets_the_waiting_go_on(tiny_corpus: Corpus) -> None:
    text = f"vary: {{model.d_model: {{choice: [32, 64]}}}}\nepochs: 9\n{ASHA}\n"
    hands = Hands(records.ledger_in_memory(20), tiny_corpus, text)
    steps = hands.run({0: 0.5, 1: 0.6})
    assert {number for number, _, _ in steps} == {0, 1} and (0, 7, EPOCHS) in steps
    assert len(hands.said) == 1 and "nothing new to try" in hands.said[0]


@pytest.mark.parametrize(
    ("asha", "ends"),
    [
        ({}, [1, 2, 3, 5, 8, 11, 17]),
        ({"promotion": None}, []),
        ({"grace": 1}, []),
        ({"promotion": 2}, [2, 3, 4, 7, 10, 15]),
        ({"promotion": 3, "grace": 1000, "unit": "updates"}, [3, 4, 7, 10, 15]),
        ({"promotion": 12, "grace": 15}, [12, 18]),
        ({"promotion": 19}, [19]),
    ],
)
def test_trials_wait_again_after_half_as_many_epochs_more(asha: dict[str, Any], ends: list[int]) -> None:
    """A trial of 20 epochs; the first wait is before the first rung, where a grace period sets one."""
    assert Settings(epochs=20, asha=Asha(**asha)).promotions == ends
