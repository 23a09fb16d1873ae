"""What a sweep does next: unfinished trials, promising ones, new ones, and those that wait."""

from __future__ import annotations

from typing import Any

import pytest
import records
from ray.tune.search import Searcher

from asr_platform.study.feasibility import Feasibility
from asr_platform.study.halving import Promotions
from asr_platform.study.ledger import Ledger
from asr_platform.study.recorded_space import RECORDED_DEFAULTS, defaults_to_record, recorded_space
from asr_platform.tuning.loop.proposer import Proposer
from search_spaces.settings import Asha, Settings
from trainables.data.corpus import Corpus

ASHA = "asha: {grace: 3, promotion: 2, reduction: 2, plateau: null}"
WAITING = records.SPACE.replace("asha: {grace: 3, promotion: null, reduction: 3}", ASHA)
EPOCHS = 9


class Hands:
    """Stands where Ray Tune stands: asks for trials, reports their epochs, says when they end."""

    def __init__(self, ledger: Ledger, corpus: Corpus, text: str) -> None:
        self.ledger, self.said = ledger, list[str]()
        feasibility = Feasibility(records.space(text), corpus)
        self.proposer = Proposer(ledger, feasibility, {"threads": 1}, self.said.append)
        self.asked = 0

    def ask(self) -> tuple[str, Any]:
        """Tune's name for the next trial, and what the proposer says it is."""
        self.asked += 1
        name = f"tune{self.asked}"
        return name, self.proposer.suggest(name)

    def train(self, name: str, told: dict[str, Any], cer: float) -> None:
        """Up to where the trial is to be left off; the recorder is told last, as Tune does."""
        for epoch in range(told["reported_epochs"] + 1, told["until"] + 1):
            self.ledger.record(told["number"], records.row(epoch, cer))
        self.proposer.on_trial_complete(name)
        if told["until"] == EPOCHS:
            self.ledger.finish(told["number"], "complete")

    def run(self, cers: dict[int, float]) -> list[tuple[int, int]]:
        """Trains all there is: the numbers and how far each time, where trials have these CERs."""
        steps = []
        while (asked := self.ask())[1] != Searcher.FINISHED:
            name, told = asked
            self.train(name, told, cers[told["number"]])
            steps.append((told["number"], told["until"]))
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


def test_the_best_half_goes_on_and_the_others_come_last(tiny_corpus: Corpus) -> None:
    """Of two the better goes on, of four the better two; those that waited go on in the order of their looks."""
    hands = Hands(records.ledger_in_memory(4), tiny_corpus, WAITING)
    steps = hands.run({0: 0.9, 1: 0.7, 2: 0.8, 3: 0.6})
    assert steps == [(0, 2), (1, 2), (1, EPOCHS), (2, 2), (3, 2), (3, EPOCHS), (2, EPOCHS), (0, EPOCHS)]
    assert hands.ledger.done


def test_looks_follow_each_other_in_the_first_half(tiny_corpus: Corpus) -> None:
    """At epochs 2 and 4 of 9; where no new trial is left, nobody waits a second time."""
    hands = Hands(records.ledger_in_memory(4), tiny_corpus, WAITING.replace(", plateau: null", ""))
    steps = hands.run({0: 0.9, 1: 0.7, 2: 0.8, 3: 0.6})
    assert steps[:4] == [(0, 2), (1, 2), (1, 4), (2, 2)]
    assert steps[4:] == [(3, 2), (3, 4), (3, EPOCHS), (1, EPOCHS), (2, EPOCHS), (0, EPOCHS)]


def test_a_trial_that_a_rung_has_stopped_waits_no_more(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(2), tiny_corpus, WAITING)
    for _ in range(2):
        name, told = hands.ask()
        hands.train(name, told, 0.5)
        hands.ledger.finish(told["number"], "pruned", "rung at epoch 2")
    assert hands.ask()[1] == Searcher.FINISHED


def test_nothing_is_finished_while_a_look_is_being_taken(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(2), tiny_corpus, WAITING)
    hands.step(0.4)
    name, told = hands.ask()
    assert (told["number"], told["until"]) == (1, 2)
    hands.step(0.4)
    assert hands.ask()[1] is None
    hands.train(name, told, 0.5)
    assert hands.step(0.5) == (1, 2, EPOCHS)
    assert hands.ask()[1] == Searcher.FINISHED


def test_a_single_trial_waits_for_nobody(tiny_corpus: Corpus) -> None:
    hands = Hands(records.ledger_in_memory(1), tiny_corpus, WAITING)
    assert hands.step(0.5) == (0, 0, EPOCHS)
    assert hands.ask()[1] == Searcher.FINISHED


AUTO = WAITING.replace("promotion: 2, ", "")


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
    hands.proposer.measure(start=900.0, epoch=1.0)
    assert len(hands.said) == 1, "the choice is made once"
    begun = {"space": AUTO, "source": "again", "epochs": EPOCHS, RECORDED_DEFAULTS: defaults_to_record()}
    about = {**ledger.about, **begun}
    assert recorded_space(about).settings.promotions == hands.proposer.space.settings.promotions == [2]
    explicit = {**about, "space": AUTO.replace("grace: 3", "grace: 3, promotion: 1")}
    assert recorded_space(explicit).settings.promotions[0] == 1


@pytest.mark.parametrize(
    ("asha", "start", "epoch", "longer"),
    [
        ({}, 4.0, 10.0, None),
        ({}, 10.0, 2.0, None),
        ({}, 10.1, 2.0, 2),
        ({}, 30.0, 2.0, 3),
        ({}, 1e6, 2.0, 3),  # below the first rung
        ({"promotion": 1}, 1e6, 2.0, None),
        ({"promotion": None}, 1e6, 2.0, None),
    ],
)
def test_the_first_promotion_depends_on_the_time_of_a_start(
    asha: dict[str, Any], start: float, epoch: float, longer: int | None
) -> None:
    assert Settings(epochs=20, asha=Asha(**asha)).longer_promotion(start, epoch) == longer


def test_who_waits_is_known_from_the_ledger(tiny_corpus: Corpus) -> None:
    """After a kill, interrupted trials go on first: one before its look ends, one after; then as before."""
    ledger = records.ledger_in_memory(5)
    before = Hands(ledger, tiny_corpus, WAITING)
    for cer in (0.9, 0.8):
        before.step(cer)
    _, promising = before.ask()
    _, interrupted = before.ask()
    assert (promising["number"], interrupted["number"]) == (1, 2)
    ledger.record(1, records.row(3, 0.7))
    ledger.record(2, records.row(1, 0.9))
    after = Hands(ledger, tiny_corpus, WAITING)
    assert [after.step(0.6), after.step(0.7)] == [(1, 3, EPOCHS), (2, 1, 2)]
    assert [after.step(0.6), after.step(0.7)] == [(2, 2, EPOCHS), (3, 0, 2)]


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
    steps = [hands.step(cer) for cer in (0.5, 0.6, 0.5, 0.6)]
    assert steps == [(0, 0, 2), (1, 0, 2), (0, 2, EPOCHS), (1, 2, EPOCHS)]
    assert hands.ask()[1] == Searcher.FINISHED
    assert len(hands.said) == 1 and "nothing new to try" in hands.said[0]


@pytest.mark.parametrize(("count", "ahead"), [(1, []), (2, [1]), (5, [4, 3]), (6, [5, 4, 3])])
def test_as_many_go_on_as_the_reduction_lets(count: int, ahead: list[int]) -> None:
    promotions = Promotions(Settings(epochs=10, asha=Asha(promotion=2, reduction=2)))
    for number in range(count):
        for entry in records.curve([0.5, 1 - number / 10, 0.1]):
            promotions.record(number, entry)
        promotions.wait(number, 2)
    found = []
    while (number := promotions.promoted()) is not None:
        del promotions.waiting[number]
        found.append(number)
    assert found == ahead


def test_a_look_compares_what_the_rungs_compare() -> None:
    promotions = Promotions(Settings(asha=Asha(promotion=1, metric="val_ctc_cer")))
    promotions.record(0, {**records.row(1, 0.5), "val_ctc_cer": 0.9})
    promotions.record(1, {**records.row(1, 0.8), "val_ctc_cer": 0.3})
    assert promotions.wait(0, 1) and promotions.wait(1, 1) and not promotions.wait(2, 2)
    assert promotions.best() == 1


def test_who_has_come_farther_goes_first() -> None:
    promotions = Promotions(Settings(epochs=10, asha=Asha(promotion=1, reduction=2)))
    for number, cers in enumerate([[0.9, 0.8], [0.5, 0.7], [0.4], [0.3]]):
        for entry in records.curve(cers):
            promotions.record(number, entry)
        promotions.wait(number, len(cers))
    assert promotions.promoted() == 1, "of two at epoch 2 the better"
    del promotions.waiting[1]
    assert promotions.promoted() == 3 and promotions.best() == 0


@pytest.mark.parametrize(
    ("asha", "ends"),
    [
        ({}, [1, 4]),
        ({"promotion": None}, []),
        ({"grace": 1}, []),
        ({"promotion": 1, "reduction": 3}, [1, 3, 9]),
        ({"promotion": 2, "reduction": 2}, [2, 4, 8]),
        ({"promotion": 1, "reduction": 1.5}, [1, 2, 3, 4, 6, 8]),
        ({"promotion": 1, "plateau": None, "reduction": 3}, [1, 3]),
        ({"promotion": 3, "plateau": None, "grace": 10, "reduction": 3}, [3, 9]),
        ({"promotion": 3, "plateau": None, "grace": 1000, "unit": "updates"}, [3]),
        ({"promotion": 12, "grace": 15}, [12]),
        ({"promotion": 1, "reduction": 1.1}, list(range(1, 10))),
    ],
)
def test_looks_end_in_a_trials_first_half(asha: dict[str, Any], ends: list[int]) -> None:
    """Of 20 epochs, four of them grace unless it is said; without late bloomers to spare, before the first rung."""
    assert Settings(epochs=20, asha=Asha(**asha)).promotions == ends
