"""Voices, rooms and noise are functions of seed, epoch and utterance, and do to features what they do to sound."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from trainables.config.data import Augmentation
from trainables.data.augmentation import EpochAcoustics
from trainables.data.augmentation.acoustics import reverberant, vocal_tract_warps, warped
from trainables.data.augmentation.draws import changed_rows
from trainables.data.augmentation.noise import Noise, recorded_noise
from trainables.data.device import DeviceFrames
from trainables.data.features import HW4_RANGE, NEPERS_PER_DECIBEL, SAMPLE_RATE, FeatureRecipe
from trainables.errors import InputError

CPU = torch.device("cpu")
UTTERANCES, BINS = 12, 16
EVERYTHING: dict[str, Any] = {
    "vocal_tract": 0.2, "gain": 6.0, "tilt": 6.0, "noise_share": 0.6, "babble_share": 0.5, "reverberation_share": 0.5,
}  # fmt: skip
RECIPES = {name: FeatureRecipe(name=name, bins=BINS) for name in ("hw4", "kaldi")}
recipes = st.sampled_from(list(RECIPES.values()))
alone = st.sampled_from([EVERYTHING, *({key: value} for key, value in EVERYTHING.items() if key != "babble_share")])


class Split:
    """Random features of a split, in dB or nepers, one utterance after the other."""

    def __init__(self, recipe: FeatureRecipe) -> None:
        random = np.random.default_rng(4)
        self.recipe = recipe
        self.lengths = torch.tensor(random.integers(3, 60, UTTERANCES))
        self.offsets = self.lengths.cumsum(0) - self.lengths
        rows = random.uniform(-HW4_RANGE if recipe.name == "hw4" else -16, 0, (int(self.lengths.sum()), BINS))
        self.features = torch.tensor(rows, dtype=torch.float32)
        self.features[self.offsets] = 0.0  # the peak of each utterance

    def row(self, index: int) -> Tensor:
        return self.features[self.offsets[index] :][: self.lengths[index]]

    def acoustics(self, config: Augmentation, key: tuple[int, int] = (0, 1)) -> EpochAcoustics:
        frames = DeviceFrames(self.features, self.lengths, self.offsets)
        noise = Noise.of(self.recipe, frames) if config.noise_share else None
        return EpochAcoustics(config, self.recipe, noise, UTTERANCES, key, CPU)

    def changed(
        self, config: dict[str, Any], indices: list[int], key: tuple[int, int] = (0, 1), width: int = 0
    ) -> list[Tensor]:
        """The utterances numbered `indices`, in one batch with padding of any value."""
        rows = [self.row(index) for index in indices]
        width = max([width, *map(len, rows)])
        padded = torch.full((len(rows), width, BINS), 7.0)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        lengths = torch.tensor([len(row) for row in rows])
        found = self.acoustics(Augmentation(**config), key).apply(padded, lengths, torch.tensor(indices))
        return [item[: len(row)] for item, row in zip(found, rows, strict=True)]


SPLITS = {name: Split(recipe) for name, recipe in RECIPES.items()}
splits = st.sampled_from(list(SPLITS.values()))


@given(splits, alone, st.lists(st.integers(0, UTTERANCES - 1), min_size=1, max_size=5), st.integers(0, 200))
def test_an_utterance_does_not_depend_on_batch_and_padding(
    split: Split, config: dict[str, Any], indices: list[int], width: int
) -> None:
    """Nor are there values that are not finite, or outside of the recipe's range."""
    for index, found in zip(indices, split.changed(config, indices, width=width), strict=True):
        (expected,) = split.changed(config, [index])
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)
        assert found.isfinite().all()
        if split.recipe.name == "hw4":
            assert found.min() >= -HW4_RANGE and found.max() == 0


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("key", [(0, 2), (1, 1)])
def test_another_epoch_or_seed_changes_everything(name: str, key: tuple[int, int]) -> None:
    split, indices = SPLITS[name], list(range(UTTERANCES))
    one, again, other = (split.changed(EVERYTHING, indices, at) for at in ((0, 1), (0, 1), key))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


@given(splits, st.sampled_from(["noise_share", "reverberation_share"]), st.sampled_from([0.3, 1.0]))
def test_a_share_of_the_utterances_is_changed(split: Split, key: str, share: float) -> None:
    changed = 0
    for epoch in range(20):
        found = split.changed({key: share}, list(range(UTTERANCES)), (0, epoch))
        changed += sum(not torch.allclose(item, split.row(index), atol=1e-4) for index, item in enumerate(found))
    assert changed / (20 * UTTERANCES) == pytest.approx(share, abs=0.12)


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_rows_that_are_not_chosen_stay_as_they_are(chosen: list[bool]) -> None:
    """On a CPU, where a change is computed for some rows alone, as on a GPU, where it is computed for all."""
    chosen_B = torch.tensor(chosen)
    x_BTF, shift_B = torch.rand(len(chosen), 4, 3), torch.arange(1, len(chosen) + 1)

    def shifted(x_BTF: Tensor, shift_B: Tensor) -> Tensor:
        return x_BTF + shift_B[:, None, None]

    expected_BTF = shifted(x_BTF, shift_B).where(chosen_B[:, None, None], x_BTF)
    assert torch.equal(changed_rows(shifted, chosen_B, x_BTF, shift_B), expected_BTF)


def tone(hertz: float) -> np.ndarray:
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@given(st.sampled_from(["hw4", "kaldi"]), st.floats(300, 3000), st.integers(0, 63))
def test_a_longer_vocal_tract_moves_a_tone(name: str, hertz: float, level: int) -> None:
    """A tone of f Hz becomes one of a f Hz, within a bin."""
    recipe = FeatureRecipe(name=name)  # type: ignore[arg-type]
    factor = np.linspace(0.8, 1.2, 64)[level]
    warps = vocal_tract_warps(recipe, 0.2)
    x_BTF = torch.from_numpy(recipe.compute(tone(hertz)))[None]
    found = int(warped(x_BTF, warps[level : level + 1])[0, 20].argmax())
    expected = int(recipe.compute(tone(hertz * factor))[20].argmax())
    assert abs(found - expected) <= 1


@pytest.mark.parametrize("name", RECIPES)
def test_bins_lie_where_tones_are_loudest(name: str) -> None:
    recipe = FeatureRecipe(name=name, bins=40)  # type: ignore[arg-type]
    for bin, hertz in list(enumerate(recipe.bin_centers()))[8:38:5]:
        assert int(recipe.compute(tone(hertz))[20].argmax()) == bin


@given(st.floats(0.1, 3.0), st.floats(-6, 20))
def test_reverberation_of_a_click(seconds: float, ratio: float) -> None:
    """The tail has the asked energy, and falls by 60 dB in the asked time."""
    frames_per_second = 125
    decay = 60 * NEPERS_PER_DECIBEL / (seconds * frames_per_second)
    x_BTF = torch.full((1, 2000, 1), -100.0)
    x_BTF[0, 10] = 0.0
    asked = torch.tensor([decay]), torch.tensor([ratio * NEPERS_PER_DECIBEL])
    power_T = reverberant(x_BTF, *asked)[0, :, 0].double().exp()
    assert power_T[10] == pytest.approx(1) and power_T[:10].max() < 1e-30
    assert 10 * math.log10(power_T[11:].sum()) == pytest.approx(-ratio, abs=0.05)
    fall = 10 * (power_T[11].log10() - power_T[11 + round(seconds * frames_per_second)].log10())
    assert float(fall) == pytest.approx(60, abs=6)  # a frame is up to 5 dB


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("ratio", [0.0, 10.0, 20.0])
def test_noise_of_features_is_like_noise_of_samples(name: str, ratio: float) -> None:
    """White noise at a signal-to-noise ratio, mixed as powers, and as samples before the features are computed."""
    recipe = FeatureRecipe(name=name, bins=40)  # type: ignore[arg-type]
    unit = NEPERS_PER_DECIBEL / recipe.decibel
    speech = np.concatenate([tone(hertz) * loud for hertz, loud in ((400, 1), (900, 0.3), (2500, 0.6))])
    samples = np.random.default_rng(2).normal(0, 1, len(speech)).astype(np.float32)
    gain = np.sqrt(np.mean(speech**2) / np.mean(samples**2) / 10 ** (ratio / 10)).astype(np.float32)
    expected = recipe.compute(speech + gain * samples)

    config = Augmentation(noise_share=1, babble_share=0, noise_snr_low=ratio, noise_snr_high=ratio)
    frames = torch.from_numpy(recipe.compute(speech))
    count = torch.tensor([len(frames)])
    noise = Noise.of(recipe, DeviceFrames(frames, count, torch.tensor([0])))
    white = noise.epoch(config, 1, torch.Generator().manual_seed(0))
    white.draws_N5[:, 3] = 1.0  # the slope of white noise
    mixed = white.mixed(frames[None] * unit, count, torch.tensor([0]))[0] / unit
    if recipe.name == "hw4":
        mixed = (mixed - mixed.max()).clamp(min=-HW4_RANGE)
    difference = (mixed.numpy() - expected) * unit / NEPERS_PER_DECIBEL
    assert abs(difference.mean()) < 1.5 and np.abs(difference).mean() < 6  # dB; two draws of one noise differ by 5


@pytest.mark.parametrize("name", RECIPES)
def test_recordings_of_noise_are_mixed_in_at_the_ratio_asked_for(name: str, tmp_path: Path) -> None:
    """Half of the utterances have a part of the recordings, which a later draw chooses; the others as without them."""
    recipe = FeatureRecipe(name=name, bins=40)  # type: ignore[arg-type]
    (tmp_path / "sub").mkdir()
    soundfile.write(tmp_path / "sub" / "hum.wav", 0.2 * tone(440), SAMPLE_RATE)
    soundfile.write(tmp_path / "hum.flac", 0.2 * tone(440), SAMPLE_RATE)
    (tmp_path / "notes.txt").write_text("no recording")
    frames = torch.from_numpy(recipe.compute(tone(2000)))
    count, ones = torch.tensor([len(frames)] * 40), torch.zeros(40, dtype=torch.long)
    config = Augmentation(noise_share=1, babble_share=0, noise_snr_low=0, noise_snr_high=0)
    x_BTF = (frames * recipe.nepers)[None].expand(40, -1, -1)
    mixed = []
    for folder in (None, tmp_path):
        noise = Noise.of(recipe, DeviceFrames(frames, count, ones), folder)
        drawn = noise.epoch(config, 40, torch.Generator().manual_seed(0))
        mixed.append(drawn.mixed(x_BTF, count, torch.arange(40)))
    same_B = (mixed[0] == mixed[1]).all((1, 2))
    assert 8 < int(same_B.sum()) < 32
    hum_F = recipe.bin_centers() - 440
    near, far = int(np.abs(hum_F).argmin()), int(np.abs(recipe.bin_centers() - 6000).argmin())
    added_BF = (mixed[1] - x_BTF)[~same_B].mean(1) / NEPERS_PER_DECIBEL
    assert added_BF[:, near].min() > 50 and added_BF[:, far].max() < 30


def test_a_folder_without_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"augmentation\.noise_folder: .*: no recordings there"):
        recorded_noise(tmp_path, RECIPES["kaldi"])


def test_gain_and_tilt_are_level_and_slope() -> None:
    split = SPLITS["kaldi"]
    for index in range(UTTERANCES):
        (found,) = split.changed({"gain": 10.0, "tilt": 4.0}, [index])
        change = (found - split.row(index)) / NEPERS_PER_DECIBEL
        assert torch.allclose(change, change[:1].expand_as(change), atol=1e-3)
        assert abs(float(change[0].mean())) <= 10.01 and abs(float(change[0, 0] - change[0, -1])) <= 8.01


def test_mistakes() -> None:
    assert not Augmentation().changes and Augmentation(gain=1).changes
    with pytest.raises(ValidationError, match=r"noise_snr_low=20\.0 is above noise_snr_high=10\.0"):
        Augmentation(noise_snr_low=20, noise_snr_high=10)
