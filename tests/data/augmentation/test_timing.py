"""Speed perturbation and time warp: exact lengths, the same ends, no padding, and no change where none is due."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config.data import Features
from trainables.data.augmentation import EpochTiming, stretched
from trainables.data.batch_plan import Rows
from trainables.data.batching import DeviceSplit, Normalizer, gather_between
from trainables.data.corpus import Corpus
from trainables.data.text.token_batches import gather_rows
from trainables.data.text.tokenizer import corpus_tokenizer
from trainables.models.losses import ctc_frames_needed
from trainables.training.loop import Trainer
from trainables.training.tasks import RecognitionTask

CPU = torch.device("cpu")
UTTERANCES = 60
KEY = (0, 1)

speeds = st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.9])
warps = st.integers(0, 100)
batches = st.lists(st.tuples(st.integers(0, UTTERANCES - 1), st.integers(1, 300)), min_size=1, max_size=5)


def resampled(timing: EpochTiming, members: list[tuple[int, int]]) -> list[torch.Tensor]:
    """The positions of each utterance's new frames, for (number, frames) pairs."""
    indices, lengths = (torch.tensor(column) for column in zip(*members, strict=True))
    longest = int(stretched(lengths, timing.rates_N[indices]).max())
    new, positions = timing.of(lengths, indices).resample(torch.arange(len(members)), longest + 3)
    for row, old, length in zip(positions, lengths, new, strict=True):
        assert (row[length:] == row[length - 1]).all() and row[length - 1] <= old - 1
    return [row[:length] for row, length in zip(positions, new, strict=True)]


@given(speeds, warps, batches)
def test_ends_stay_and_time_never_runs_back(speed: float, warp: int, members: list[tuple[int, int]]) -> None:
    timing = EpochTiming(speed, warp, UTTERANCES, KEY, CPU)
    for row, (index, length) in zip(resampled(timing, members), members, strict=True):
        rate = timing.rates_N[index].item()
        assert rate in (1 - speed, 1.0, 1 + speed)
        assert len(row) == max(1, round(length / rate))
        assert row[0] == 0
        assert len(row) == 1 or row[-1] == length - 1
        assert (row.diff() >= 0).all() and row.max() <= length - 1


@given(speeds, warps, batches)
def test_timing_does_not_depend_on_who_shares_the_batch(
    speed: float, warp: int, members: list[tuple[int, int]]
) -> None:
    timing = EpochTiming(speed, warp, UTTERANCES, KEY, CPU)
    for row, member in zip(resampled(timing, members), members, strict=True):
        assert torch.equal(row, resampled(timing, [member])[0])


@given(st.integers(1, 500))
def test_no_speed_and_no_warp_is_the_identity(length: int) -> None:
    timing = EpochTiming(0.0, 0, UTTERANCES, KEY, CPU)
    assert resampled(timing, [(3, length)])[0].tolist() == list(range(length))


def test_an_epoch_has_all_three_speeds_about_as_often() -> None:
    counts = Counter(EpochTiming(0.1, 0, 3000, KEY, CPU).rates_N.tolist())
    assert set(counts) == {0.9, 1.0, 1.1}
    assert all(900 < count < 1100 for count in counts.values())


@given(st.integers(0, 40), st.integers(1, 200))
def test_a_warp_is_two_straight_lines_that_meet_at_most_so_far_from_the_diagonal(warp: int, length: int) -> None:
    for row in resampled(EpochTiming(0.0, warp, UTTERANCES, KEY, CPU), [(index, length) for index in range(8)]):
        away = (row - torch.arange(length)).abs()
        assert away.max() <= warp + 1e-9
        slopes = row.diff()
        bends = (slopes.diff().abs() > 1e-9).nonzero()[:, 0]
        assert len(bends) <= 1
        assert len(row) == length


def test_a_point_moves_by_every_distance_and_anywhere() -> None:
    """Where the two lines meet is a whole frame, moved by a whole number of frames."""
    found, places = set(), set()
    for epoch in range(40):
        timing = EpochTiming(0.0, 3, UTTERANCES, (0, epoch), CPU)
        for row in resampled(timing, [(index, 20) for index in range(UTTERANCES)]):
            away = row - torch.arange(20)
            place = int(away.abs().argmax())
            found.add(round(away[place].item(), 6))
            places.add(int(row[place].round()))
    assert found == {-3, -2, -1, 0, 1, 2, 3}
    assert places - {0} == set(range(4, 16))


@pytest.mark.parametrize("key", [(0, 2), (1, 1), (1, 0)])
def test_another_epoch_or_seed_gives_other_timing(key: tuple[int, int]) -> None:
    one, other = EpochTiming(0.1, 5, UTTERANCES, KEY, CPU), EpochTiming(0.1, 5, UTTERANCES, key, CPU)
    again = EpochTiming(0.1, 5, UTTERANCES, KEY, CPU)
    assert torch.equal(one.rates_N, again.rates_N) and torch.equal(one.draws_N2, again.draws_N2)
    assert not torch.equal(one.rates_N, other.rates_N) and not torch.equal(one.draws_N2, other.draws_N2)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 2**31))
def test_gathering_between_rows_is_numpys_interpolation(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    flat = torch.from_numpy(random.normal(size=(sum(lengths), 3))).half()
    offsets = torch.tensor(np.cumsum(lengths) - lengths)
    position = torch.from_numpy(random.uniform(0, 1, (len(lengths), 7)) * (np.array(lengths)[:, None] - 1))
    found = gather_between(flat, offsets, position)
    assert found.dtype == torch.float32
    for row, start, length, places in zip(found, offsets.tolist(), lengths, position.numpy(), strict=True):
        own = flat[start : start + length].float().numpy()
        for column in range(3):
            expected = np.interp(places, np.arange(length), own[:, column])
            np.testing.assert_allclose(row[:, column], expected, atol=1e-4)


def test_gathering_between_rows_at_whole_positions_is_gathering_rows() -> None:
    flat, offsets, lengths = torch.randn(50, 2), torch.tensor([0, 20]), torch.tensor([20, 30])
    position = torch.minimum(torch.arange(30.0, dtype=torch.float64), lengths[:, None] - 1)
    assert torch.equal(gather_between(flat, offsets, position), gather_rows(flat, offsets, lengths, 30))


@pytest.fixture(scope="module", params=["global_mvn", "cepstral", "none"])
def data(request: pytest.FixtureRequest, tiny_corpus: Corpus) -> DeviceSplit:
    assert tiny_corpus.mean is not None and tiny_corpus.std is not None
    features = Features.model_validate({"normalization": request.param})
    split = tiny_corpus.training_split()
    tokenizer = corpus_tokenizer(tiny_corpus, split, tiny.config().tokenizer)
    return DeviceSplit(split, tokenizer, Normalizer(features, tiny_corpus.mean, tiny_corpus.std, CPU), CPU)


def test_gathered_utterances_have_their_ends_and_no_padding(data: DeviceSplit) -> None:
    """The neighbours in the flat buffer are far from zero and from each other: what leaks would show."""
    indices = np.arange(20)
    edge = int(stretched(torch.from_numpy(data.split.frames), 0.7).max()) + 5
    timing = data.timing(0.3, 10, 0, 1)
    batch = data.gather(Rows.of(indices), edge, timing=timing)
    plain = data.gather(Rows.of(indices), edge)
    assert len(set((batch.lengths_B / plain.lengths_B).round(decimals=1).tolist())) == 3
    for row, length, was, frames in zip(
        batch.features_BTF, batch.lengths_B, plain.features_BTF, plain.lengths_B, strict=True
    ):
        assert not row[length:].any()
        assert row[:length].abs().sum(1).min() > 0
        if data.normalizer.kind != "cepstral":  # whose mean and variance are those of other frames
            torch.testing.assert_close(row[0], was[0])
            torch.testing.assert_close(row[length - 1], was[frames - 1])
            assert (
                was[:frames].amin() - 1e-4 <= row[:length].amin() and row[:length].amax() <= was[:frames].amax() + 1e-4
            )


def test_timing_is_off_where_nothing_asks_for_it(data: DeviceSplit) -> None:
    assert data.timing(0.0, 0, 0, 1) is None
    still = EpochTiming(0.0, 0, len(data.split.ids), KEY, CPU).of(data.frames)
    rows = Rows.of(np.array([4, 0, 11]))
    one, other = data.gather(rows, 100, timing=still), data.gather(rows, 100)
    for name, value in vars(other).items():
        assert torch.equal(getattr(one, name), value), name


def trainer(corpus: Corpus, leaves: dict[str, Any]) -> Trainer:
    return Trainer(tiny.config({"training.update_seconds": 1.5, **leaves}), corpus, CPU)


def test_a_batch_has_room_for_the_speeds_of_its_epoch(tiny_corpus: Corpus) -> None:
    run = trainer(tiny_corpus, {"data.speed_perturbation": 0.2, "specaugment.time_warp": 4, "training.epochs": 8})
    budget = 1.5 * tiny_corpus.recipe.frames_per_second
    edges: set[int] = set()
    for epoch in range(1, 9):
        timing = run.task.train_data.timing(0.2, 4, 0, epoch)
        batches = [batch for update in run.updates_of(epoch) for batch in update]
        assert len(list(run.updates_of(epoch))) == run.updates[epoch - 1]
        edges |= {batch.edge for batch in batches}
        for indices, edge, tokens, rows, _ in batches:
            assert len(indices) * edge <= budget or len(indices) == 1
            gathered = run.task.train_data.gather(rows, edge, tokens, timing=timing)
            assert gathered.lengths_B.max() <= edge == gathered.features_BTF.shape[1]
            assert gathered.target_lengths_B.max() <= tokens == gathered.targets_BU.shape[1]
    assert edges <= set(run.plans[1.0].edges)


def test_a_warp_alone_leaves_the_plan_as_it_is(tiny_corpus: Corpus) -> None:
    plain, warped = trainer(tiny_corpus, {}), trainer(tiny_corpus, {"specaugment.time_warp": 4})
    for one, other in zip(plain.plan_of(1).epoch(1), warped.plan_of(1).epoch(1), strict=True):
        assert np.array_equal(one[0], other[0]) and one[1] == other[1]


@pytest.mark.parametrize("leaves", [{"data.speed_perturbation": 0.2}, {"specaugment.time_warp": 8}])
def test_training_is_perturbed_and_validation_is_not(leaves: dict[str, Any], tiny_corpus: Corpus) -> None:
    plain, perturbed = trainer(tiny_corpus, {}), trainer(tiny_corpus, leaves)
    assert tiny.timeless(plain.validate()) == tiny.timeless(perturbed.validate())
    assert plain.epoch(1)["train_loss"] != perturbed.epoch(1)["train_loss"]


def test_lengths_for_ctc_are_known_before_the_pass(tiny_corpus: Corpus) -> None:
    run = trainer(tiny_corpus, {"data.speed_perturbation": 0.2})
    task = run.task
    assert isinstance(task, RecognitionTask)
    task.start_epoch(1, [])
    for batch in itertools.chain.from_iterable(run.updates_of(1)):
        gathered = task.training_batch(batch)
        states, tokens, infeasible_B = task.ctc_lengths(batch.rows)
        state_lengths_B = run.model.encode(gathered.features_BTF, gathered.lengths_B).lengths_B
        assert states == state_lengths_B.tolist()
        assert tokens == (gathered.target_lengths_B - 1).tolist()
        needed_B = ctc_frames_needed(gathered.targets_BU, gathered.target_lengths_B - 1)
        assert torch.equal(infeasible_B.bool(), needed_B > state_lengths_B)
