"""Batch plans cover every utterance once; gathering gives what a slow reading of each utterance gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import Tokenizer as TokenizerConfig
from trainables.config_data import Features, SpecAugment
from trainables.data.batching import BatchPlan, DeviceSplit, Normalizer, in_batches, worker_share
from trainables.data.corpus import Corpus
from trainables.data.features import FeatureRecipe
from trainables.data.text.token_batches import gather_rows
from trainables.data.text.tokenizer import EOS, PAD, SOS, Tokenizer

CPU = torch.device("cpu")

lengths = st.lists(st.integers(1, 3000), min_size=1, max_size=150).map(np.array)
budgets = st.floats(1, 50_000)
seeds = st.integers(0, 2**31)
epochs = st.integers(1, 1000)


@given(lengths, budgets, seeds, epochs | st.none())
def test_an_epoch_covers_every_utterance_once(frames: npt.NDArray, budget: float, seed: int, epoch: int | None) -> None:
    batches = BatchPlan(frames, budget, seed).epoch(epoch)
    assert sorted(np.concatenate([indices for indices, _ in batches])) == list(range(len(frames)))


@given(lengths, budgets, seeds, epochs | st.none())
def test_a_batch_keeps_its_budget_unless_it_is_one_long_utterance(
    frames: npt.NDArray, budget: float, seed: int, epoch: int | None
) -> None:
    for indices, edge in BatchPlan(frames, budget, seed).epoch(epoch):
        assert len(indices)
        assert frames[indices].max() <= edge
        assert len(indices) * edge <= budget or len(indices) == 1


@given(lengths, budgets, seeds, epochs, epochs)
def test_number_and_shapes_of_batches_are_the_same_in_every_epoch(
    frames: npt.NDArray, budget: float, seed: int, one: int, other: int
) -> None:
    plan = BatchPlan(frames, budget, seed)
    shapes = [Counter((len(indices), edge) for indices, edge in plan.epoch(epoch)) for epoch in (one, other, None)]
    assert shapes[0] == shapes[1] == shapes[2]


def test_order_and_members_depend_on_seed_and_epoch_alone() -> None:
    frames = np.random.default_rng(0).integers(100, 2000, 500)

    def members(seed: int, epoch: int) -> list[list[int]]:
        return [indices.tolist() for indices, _ in BatchPlan(frames, 20_000, seed).epoch(epoch)]

    assert members(1, 2) == members(1, 2)
    assert members(1, 2) != members(1, 3) != members(2, 2)
    together = {frozenset(batch) for batch in members(1, 2)}
    assert not together & {frozenset(batch) for batch in members(1, 3)}


@given(lengths, budgets)
def test_padding_share_counts_padded_frames(frames: npt.NDArray, budget: float) -> None:
    plan = BatchPlan(frames, budget)
    padding = sum(edge - frames[index] for indices, edge in plan.epoch() for index in indices)
    assert plan.padding_share() == pytest.approx(padding / (padding + frames.sum()))


def test_similar_lengths_share_a_batch() -> None:
    frames = np.random.default_rng(0).integers(200, 3000, 2000)
    assert BatchPlan(frames, 40_000).padding_share() < 0.08


@given(st.integers(1, 50), st.integers(1, 9))
def test_workers_share_a_batch_without_counting_anything_twice(size: int, world: int) -> None:
    indices = np.arange(100, 100 + size)
    shares = [worker_share(indices, rank, world) for rank in range(world)]
    assert len({len(share) for share, _ in shares}) == 1
    counted = np.concatenate([share[weights == 1] for share, weights in shares])
    assert sorted(counted) == indices.tolist()
    for share, weights in shares:
        assert set(share) <= set(indices)
        assert set(weights) <= {0.0, 1.0}


@given(st.lists(st.integers(1, 500), max_size=60), st.floats(1, 5000))
def test_in_batches_yields_every_item_once(lengths: list[int], budget: float) -> None:
    batches = list(in_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


@given(st.data())
def test_rows_are_gathered_from_the_flat_buffer(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 10), min_size=1, max_size=8))
    flat = torch.arange(sum(counts))
    offsets, rows = torch.tensor(np.cumsum([0, *counts[:-1]])), torch.tensor(counts)
    gathered = gather_rows(flat, offsets, rows, width=max(counts))
    for row, offset, count in zip(gathered, offsets, counts, strict=True):
        assert row[:count].tolist() == list(range(offset, offset + count))


def tokenizer(corpus: Corpus) -> Tokenizer:
    return Tokenizer.train(corpus.training_split().texts or [], TokenizerConfig(kind="char"))


def device_split(corpus: Corpus, features: Features) -> DeviceSplit:
    assert corpus.mean is not None and corpus.std is not None
    normalizer = Normalizer(features, corpus.mean, corpus.std, CPU)
    return DeviceSplit(corpus.training_split(), tokenizer(corpus), normalizer, CPU)


def reference(corpus: Corpus, config: Features, index: int) -> npt.NDArray[np.float64]:
    """One utterance, (T, F), normalised in float64."""
    split, bins = corpus.training_split(), config.num_feats or corpus.recipe.bins
    start = split.offsets[index]
    x = split.features[start : start + split.frames[index], :bins].numpy().astype(np.float64)
    if config.dynamic_range is not None:
        x = np.maximum(x, x.max() - config.dynamic_range)
    if config.normalization == "global_mvn":
        assert corpus.mean is not None and corpus.std is not None
        return (x - corpus.mean.numpy()[:bins]) / corpus.std.numpy()[:bins]
    if config.normalization == "cepstral":
        return (x - x.mean(0)) / x.std(0)
    return x


@pytest.mark.parametrize("num_feats", [None, 5])
@pytest.mark.parametrize("dynamic_range", [None, 40.0])
@pytest.mark.parametrize("normalization", ["global_mvn", "cepstral", "none"])
def test_gathering_equals_a_reference_for_each_utterance(
    normalization: str, dynamic_range: float | None, num_feats: int | None, tiny_corpus: Corpus
) -> None:
    keys = {"normalization": normalization, "dynamic_range": dynamic_range, "num_feats": num_feats}
    config = Features.model_validate(keys)
    data = device_split(tiny_corpus, config)
    indices = np.array([3, 0, 17, 3])
    edge = int(data.split.frames.max()) + 2
    batch = data.gather(indices, edge, np.ones(4, dtype=np.float32))
    assert batch.features_BTF.dtype == torch.float32
    assert batch.features_BTF.shape == (4, edge, num_feats or tiny.BINS)
    assert batch.lengths_B.tolist() == data.split.frames[indices].tolist()
    for row, index in zip(batch.features_BTF.numpy(), indices, strict=True):
        expected = reference(tiny_corpus, config, index)
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4)
        assert not row[len(expected) :].any()


def test_tokens_are_shifted_and_golden(tiny_corpus: Corpus) -> None:
    data = device_split(tiny_corpus, Features())
    indices, weights = np.array([1, 0, 9]), np.array([1, 0, 1], dtype=np.float32)
    batch = data.gather(indices, 200, weights)
    texts = data.split.texts or []
    expected = tokenizer(tiny_corpus).encode([texts[index] for index in indices])
    longest = max(map(len, expected))
    assert batch.inputs_BU.shape == batch.targets_BU.shape == (3, longest + 1)
    assert batch.target_lengths_B.tolist() == [len(ids) + 1 for ids in expected]
    assert batch.weights_B.tolist() == weights.tolist()
    for shifted, golden, ids in zip(batch.inputs_BU.tolist(), batch.targets_BU.tolist(), expected, strict=True):
        padding = [PAD] * (longest - len(ids))
        assert shifted == [SOS, *ids, *padding]
        assert golden == [*ids, EOS, *padding]


def test_a_split_without_texts_is_gathered(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Corpus) -> None:
    """A test split has features alone: its sequences are SOS and EOS."""
    split = tiny_corpus.split("dev")
    normalizer = Normalizer(Features(normalization="none"), torch.zeros(tiny.BINS), torch.ones(tiny.BINS), CPU)
    silent = DeviceSplit(
        type(split)("test", split.ids, None, split.seconds, split.frames, split.offsets, split.features),
        tokenizer(tiny_corpus), normalizer, CPU,
    )  # fmt: skip
    batch = silent.gather(np.array([9, 2]), 200, np.ones(2, dtype=np.float32))
    assert batch.inputs_BU.tolist() == [[SOS], [SOS]]
    assert batch.targets_BU.tolist() == [[EOS], [EOS]]


@pytest.mark.parametrize("name", ["hw4", "kaldi"])
def test_the_range_is_in_decibels(name: str) -> None:
    """In both recipes a noise 60 dB below a tone is cut off at 50 dB and kept at 70 dB."""
    recipe = FeatureRecipe(name=name)  # type: ignore[arg-type]
    time = np.arange(16_000) / 16_000
    tone = np.where(time < 0.5, 0.5 * np.sin(2 * np.pi * 1000 * time), 0.0)
    noise = 0.5e-3 * np.sin(2 * np.pi * 1000 * time)
    x_BTF = torch.from_numpy(recipe.compute((tone + noise).astype(np.float32)))[None]
    mean, std, quiet = torch.zeros(recipe.bins), torch.ones(recipe.bins), slice(-30, -10)
    for limit, kept in ((50.0, False), (70.0, True)):
        config = Features(normalization="none", dynamic_range=limit)
        found = Normalizer(config, mean, std, CPU, recipe.decibel)(x_BTF, torch.tensor([x_BTF.shape[1]]))
        assert (found[0, quiet].max() > found.max() - limit * recipe.decibel + 1e-3) == kept


@pytest.mark.parametrize("normalization", ["cepstral", "global_mvn"])
def test_a_bin_that_never_changes_stays_near_zero(normalization: str) -> None:
    """Band-limited audio has such bins: their rounding errors must not be divided by almost nothing."""
    level = -15.9424  # has no exact float32 or float16
    x_BTF = torch.full((1, 2000, 2), level)
    x_BTF[..., 1] = torch.randn(2000)
    normalizer = Normalizer(
        Features.model_validate({"normalization": normalization}), x_BTF.mean((0, 1)), x_BTF.std((0, 1)), CPU
    )
    for stored in (x_BTF, x_BTF.half()):
        assert normalizer(stored, torch.tensor([2000]))[..., 0].abs().max() < 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 30), st.sampled_from(["cepstral", "none"]))
def test_normalising_does_not_see_padding(lengths: list[int], extra: int, normalization: str) -> None:
    keys = {"normalization": normalization, "dynamic_range": 60.0}
    normalizer = Normalizer(Features.model_validate(keys), torch.zeros(3), torch.ones(3), CPU)
    random = torch.Generator().manual_seed(sum(lengths))
    x_BTF = torch.randn(len(lengths), max(lengths) + extra, 3, generator=random) * 10
    together = normalizer(x_BTF, torch.tensor(lengths))
    for row, result, length in zip(x_BTF, together, lengths, strict=True):
        alone = normalizer(row[None, :length], torch.tensor([length]))[0]
        torch.testing.assert_close(result[:length], alone, atol=1e-4, rtol=1e-4)
        assert not result[length:].any()


def test_a_masked_cell_becomes_the_mean(tiny_corpus: Corpus) -> None:
    everything = SpecAugment(frequency_masks=20, frequency_width=tiny.BINS, time_masks=20, time_width=1)
    for normalization in ("global_mvn", "none"):
        data = device_split(tiny_corpus, Features.model_validate({"normalization": normalization}))
        masks = data.masks(everything, seed=0, epoch=1)
        indices, weights = np.arange(4), np.ones(4, dtype=np.float32)
        masked = data.gather(indices, 200, weights, masks).features_BTF
        plain = data.gather(indices, 200, weights).features_BTF
        changed = masked != plain
        fill = torch.as_tensor(data.normalizer.fill).expand_as(masked)
        assert changed.any()
        assert torch.equal(masked[changed], fill[changed])
    assert data.masks(SpecAugment(), seed=0, epoch=1) is None
