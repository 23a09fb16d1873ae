"""An update is learnt from alike in however many passes it is taken, and passes fit in memory."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables.config.tree import Loss
from trainables.data.batch_plan import BATCHES_PER_BUCKET, MAX_BUCKETS, BatchPlan, PassBatch, batches_per_update
from trainables.data.corpus import Corpus
from trainables.training.loop import Metrics, Trainer
from trainables.training.tasks import passes
from trainables.training.tasks.passes import in_passes, kept_bytes

CPU = torch.device("cpu")
MASKS = {key: value for key, value in tiny.RANDOM.items() if key.startswith(("specaugment", "augmentation"))}
CASES: dict[str, dict[str, Any]] = {
    "encoder_decoder": {**MASKS, "data.speed_perturbation": 0.1, "loss.attention_weight": 1.0},
    "conformer": {**tiny.CONFORMER, "model.conv_norm": "layer"},
    "several_batches": {"training.update_seconds": 5.0},  # make an update, each of a bucket of its own
    "language_model": {"model.kind": "language_model", "training.update_tokens": 120},
}
SECONDS = {"training.update_seconds": 6.0, "optimizer.lr": 1e-3}
SPLITS = [1.0, 0.5, 1e-9]  # of an update's budget in a pass; at last, every utterance alone
LOSSES = ("train_loss", "train_cross_entropy", "train_ctc", "stray_attention", "gradient_norm", "val_loss")


def split(case: str, corpus: Corpus, share: float, **leaves: Any) -> Trainer:
    """A trainer whose passes have this share of an update's budget."""
    trainer = Trainer(tiny.config({**SECONDS, **CASES[case], **leaves}), corpus, CPU)
    trainer.task.batches_per_update = 2 if case == "several_batches" else 1
    trainer.pass_budget = share * trainer.task.budget
    return trainer


@given(
    frames=st.lists(st.integers(1, 500), min_size=1, max_size=80), update=st.floats(1, 5000),
    most=st.floats(1, 5000), world=st.integers(1, 4),
)  # fmt: skip
def test_passes_hold_an_update_and_no_more_than_fits(frames: list[int], update: float, most: float, world: int) -> None:
    batches = BatchPlan(np.array(frames), update).epoch(1)
    for (indices, edge), parts in zip(batches, in_passes(batches, 1, most, world), strict=True):
        assert np.array_equal(np.concatenate([part for part, _ in parts]), indices)
        assert {length for _, length in parts} == {edge}
        sizes = [len(part) for part, _ in parts]
        assert min(sizes) > 0 and max(sizes) - min(sizes) <= 1
        share = -(-max(sizes) // world)
        assert share == 1 or share * edge <= most
        assert len(parts) == 1 or len(indices) * edge > (len(parts) - 1) * (most - edge) * world, "no more than needed"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 4))
def test_an_update_is_so_many_batches_one_after_the_other(sizes: list[int], per_update: int, most: int) -> None:
    batches = [(np.full(size, number), 10) for number, size in enumerate(sizes)]
    updates = in_passes(batches, per_update, 10.0 * most, 1)
    found = [np.unique(np.concatenate([part for part, _ in passes])).tolist() for passes in updates]
    assert found == [
        list(range(start, min(start + per_update, len(sizes)))) for start in range(0, len(sizes), per_update)
    ]


@given(st.lists(st.integers(10, 4000), min_size=1, max_size=500), st.floats(500, 1e6))
def test_an_update_is_one_batch_where_there_are_enough_and_at_most_as_many_as_are_of_use(
    frames: list[int], budget: float
) -> None:
    lengths, small = np.array(frames), 20_000.0
    count = batches_per_update(lengths, budget, small)
    assert count >= 1 and (count == 1 or budget / count > small / 2)
    enough = MAX_BUCKETS * BATCHES_PER_BUCKET
    if lengths.sum() / budget >= enough:
        assert count == 1
    elif count < math.ceil(budget / small):
        assert lengths.sum() / (budget / count) >= enough


@pytest.mark.parametrize("case", CASES)
def test_the_utterances_of_updates_do_not_depend_on_the_split(case: str, tiny_corpus: Corpus) -> None:
    found, counts = [], []
    for share in SPLITS:
        trainer = split(case, tiny_corpus, share)
        updates = list(trainer.updates_of(2))
        found.append([np.concatenate([one.indices for one in update]).tolist() for update in updates])
        counts.append(sum(map(len, updates)))
        assert len(updates) == trainer.updates[1] > 1
    assert all(one == found[0] for one in found)
    assert counts == sorted(set(counts)), "the splits differ"
    assert counts[-1] == len(trainer.task.lengths)


@pytest.mark.parametrize("case", CASES)
def test_gradients_do_not_depend_on_the_split(case: str, tiny_corpus: Corpus) -> None:
    """And the sums of the epoch's losses; masks are on, since each utterance has its own."""
    results = []
    for share in SPLITS:
        trainer = split(case, tiny_corpus, share)
        trainer.task.start_epoch(1, [])
        trainer.enter(trainer.phases[0])
        sums = torch.zeros(len(trainer.task.SUMS), dtype=torch.float64)
        assert trainer.fits(next(trainer.updates_of(1)), trainer.config.loss, sums)
        results.append(({name: one.grad for name, one in trainer.model.named_parameters()}, sums))
    (expected, total), *others = results
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for gradients, sums in others:
        torch.testing.assert_close(sums, total, rtol=1e-5, atol=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_the_losses_of_epochs_do_not_depend_on_the_split(case: str, tiny_corpus: Corpus) -> None:
    results: list[list[Metrics]] = []
    for share in SPLITS:
        trainer = split(case, tiny_corpus, share, **{"training.epochs": 2})
        rows: list[Metrics] = []
        trainer.fit(lambda metrics, save, rows=rows: rows.append(metrics))
        results.append([{name: row[name] for name in LOSSES if name in row} for row in rows])
        assert {row["updates"] for row in rows} == set(itertools.accumulate(trainer.updates))
    for other in results[1:]:
        for row, expected in zip(other, results[0], strict=True):
            assert row == pytest.approx(expected, rel=1e-3)


def test_passes_that_are_given_and_those_of_a_cpu(tiny_corpus: Corpus) -> None:
    leaves = {"training.update_seconds": 400.0}
    auto, given = (Trainer(tiny.config(leaves | more), tiny_corpus, CPU) for more in ({}, {"training.pass_seconds": 3}))
    rate = tiny_corpus.recipe.frames_per_second
    assert auto.task.batches_per_update == given.task.batches_per_update == 2 and auto.task.budget == 200 * rate
    assert (auto.pass_budget, given.pass_budget) == (200 * rate, 3 * rate)
    longest = max(len(one.rows.indices) * one.edge for update in given.updates_of(1) for one in update)
    assert longest <= 3 * rate
    assert given.task.validation_plan.budget == auto.task.validation_plan.budget, "which has more room than such passes"


class Small(Trainer):
    """A trainer on a device with room for passes of so many frames."""

    room = 0

    def accumulate_gradients(self, batches: list[PassBatch], loss_config: Loss, totals: Tensor) -> None:
        for place, batch in enumerate(batches):
            if len(batch.rows.indices) * batch.edge > self.room:
                super().accumulate_gradients(batches[: place + 1], loss_config, totals)  # up to the failure
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        super().accumulate_gradients(batches, loss_config, totals)


def fitted(trainer: Trainer) -> list[Metrics]:
    rows: list[Metrics] = []
    trainer.fit(lambda metrics, save: rows.append(metrics))
    return rows


def test_passes_that_do_not_fit_are_halved_and_updates_stay_the_same(
    tiny_corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny.config({**MASKS, **SECONDS, "training.epochs": 2, "data.speed_perturbation": 0.1})
    whole, small = Trainer(config, tiny_corpus, CPU), Small(config, tiny_corpus, CPU)
    small.room = int(whole.task.budget / 3)
    for row, expected in zip(fitted(small), fitted(whole), strict=True):
        assert row["updates"] == expected["updates"]
        for name in set(LOSSES) & set(row):
            assert row[name] == pytest.approx(expected[name], rel=1e-3), name
    assert small.pass_budget <= small.room
    assert 0 < capfd.readouterr().err.count("half as large") < 4


@pytest.mark.parametrize(("leaves", "room"), [({"training.pass_seconds": 3.0}, 100), ({}, 1)])
def test_passes_that_are_given_or_of_one_utterance_are_not_halved(
    leaves: dict[str, Any], room: int, tiny_corpus: Corpus
) -> None:
    trainer = Small(tiny.config({**SECONDS, **leaves}), tiny_corpus, CPU)
    trainer.room = room
    with pytest.raises(torch.OutOfMemoryError):
        fitted(trainer)


KINDS = ({}, tiny.CONFORMER, tiny.EDITING, {"model.kind": "language_model"})


@pytest.mark.parametrize("leaves", KINDS, ids=["encoder_decoder", "conformer", "editor", "language_model"])
def test_what_a_pass_keeps_is_counted_for_each_frame(
    leaves: dict[str, Any], tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger models keep more; a larger pass keeps as much for each frame."""

    def counted(**more: Any) -> float:
        trainer = Trainer(tiny.config({**leaves, "model.dropout": 0.1, **more}), tiny_corpus, CPU)
        trainer.task.start_epoch(1, [])
        return kept_bytes(trainer.task, trainer.plan_of(1))

    found, layers = counted(), "model.decoder_layers" if "language_model" in leaves.values() else "model.encoder_layers"
    width = tiny.config(leaves).model.d_model
    assert found > 10 * width * torch.float32.itemsize / tiny.config(leaves).model.reduction_factor
    assert counted(**{layers: 4}) > 1.2 * found
    monkeypatch.setattr(passes, "PROBED", 12)
    assert counted() == pytest.approx(found, rel=0.25)


def test_counting_what_a_pass_keeps_changes_nothing(tiny_corpus: Corpus) -> None:
    trainer = Trainer(tiny.config({**tiny.CONFORMER, "model.dropout": 0.1}), tiny_corpus, CPU)
    trainer.task.start_epoch(1, [])
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    random = torch.get_rng_state()
    kept_bytes(trainer.task, trainer.plan_of(1))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(weight.grad is None for weight in trainer.model.parameters())
