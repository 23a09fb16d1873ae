"""Batch plans cover every utterance once; gathering gives what a slow reading of each utterance gives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config.data import Features, SpecAugment
from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.batch_plan import Rows
from trainables.data.batching import FIRST_WINDOW, WINDOW, DeviceSplit, Normalizer, sliding_means
from trainables.data.corpus import Corpus
from trainables.data.features import FeatureRecipe
from trainables.data.text.token_batches import gather_rows
from trainables.data.text.tokenizer import EOS, PAD, SOS, Tokenizer

CPU = torch.device("cpu")


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
    if config.normalization in ("global_mvn", "sliding"):
        assert corpus.mean is not None and corpus.std is not None
        x = (x - corpus.mean.numpy()[:bins]) / corpus.std.numpy()[:bins]
        if config.normalization == "global_mvn":
            return x
        ends = [min(max(place + 1, FIRST_WINDOW), len(x)) for place in range(len(x))]
        return np.stack([row - x[max(end - WINDOW, 0) : end].mean(0) for row, end in zip(x, ends, strict=True)])
    if config.normalization == "cepstral":
        return (x - x.mean(0)) / x.std(0)
    return x


@pytest.mark.parametrize("num_feats", [None, 5])
@pytest.mark.parametrize("dynamic_range", [None, 40.0])
@pytest.mark.parametrize("normalization", ["global_mvn", "cepstral", "sliding", "none"])
def test_gathering_equals_a_reference_for_each_utterance(
    normalization: str, dynamic_range: float | None, num_feats: int | None, tiny_corpus: Corpus
) -> None:
    keys = {"normalization": normalization, "dynamic_range": dynamic_range, "num_feats": num_feats}
    config = Features.model_validate(keys)
    data = device_split(tiny_corpus, config)
    indices = np.array([3, 0, 17, 3])
    edge = int(data.split.frames.max()) + 2
    batch = data.gather(Rows.of(indices), edge)
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
    batch = data.gather(Rows.of(indices, weights=weights), 200)
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
    batch = silent.gather(Rows.of(np.array([9, 2])), 200)
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


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
    st.integers(0, 30),
    st.sampled_from(["cepstral", "sliding", "none"]),
)
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


@given(st.integers(1, 1500), st.integers(0, 1500), st.integers(0, 1000))
def test_sliding_means_are_of_a_window_that_hardly_looks_ahead(length: int, padding: int, seed: int) -> None:
    x_BTF = torch.randn(1, length, 2, generator=torch.Generator().manual_seed(seed))
    padded = torch.nn.functional.pad(x_BTF, (0, 0, 0, padding))
    found = sliding_means(padded, torch.tensor([length]))[0, :length]
    for place in {0, length // 2, length - 1}:
        end = min(max(place + 1, FIRST_WINDOW), length)
        window = x_BTF[0, max(place + 1 - WINDOW, 0) : end]
        torch.testing.assert_close(found[place], window.mean(0), atol=1e-4, rtol=1e-4)
    start = max(length // 2, FIRST_WINDOW)
    later = padded.clone()
    later[0, start:] += 7
    assert torch.equal(sliding_means(later, torch.tensor([length]))[0, : min(start, length)], found[:start])


@given(st.floats(-40, 40))
def test_a_microphone_does_not_change_what_is_normalised_within_a_recording(gain: float) -> None:
    x_BTF = torch.randn(2, 700, 3, generator=torch.Generator().manual_seed(0)) * 10
    lengths, response_F = torch.tensor([700, 640]), torch.tensor([gain, 0.0, -gain])
    for normalization in ("cepstral", "sliding"):
        config = Features.model_validate({"normalization": normalization})
        normalizer = Normalizer(config, torch.zeros(3), torch.full((3,), 10.0), CPU)
        torch.testing.assert_close(
            normalizer(x_BTF + response_F, lengths), normalizer(x_BTF, lengths), atol=1e-3, rtol=0
        )


def test_a_masked_cell_becomes_the_mean(tiny_corpus: Corpus) -> None:
    everything = SpecAugment(frequency_masks=20, frequency_width=tiny.BINS, time_masks=20, time_width=1)
    for normalization in ("global_mvn", "none"):
        data = device_split(tiny_corpus, Features.model_validate({"normalization": normalization}))
        masks = data.masks(everything, seed=0, epoch=1)
        indices, weights = np.arange(4), np.ones(4, dtype=np.float32)
        masked = data.gather(Rows.of(indices), 200, masks=masks).features_BTF
        plain = data.gather(Rows.of(indices, weights=weights), 200).features_BTF
        changed = masked != plain
        fill = torch.as_tensor(data.normalizer.fill).expand_as(masked)
        assert changed.any()
        assert torch.equal(masked[changed], fill[changed])
    assert data.masks(SpecAugment(), seed=0, epoch=1) is None
