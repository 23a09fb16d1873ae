"""Silence, range and clipping are found where they were put."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.data.features import SAMPLE_RATE, FeatureRecipe, Samples
from trainables.data.inspection.signals import Loudness, frame_levels, is_clipped, loudness

RECIPES = [FeatureRecipe(name="hw4"), FeatureRecipe(name="kaldi")]


def noise(seconds: float, deviation: float, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return (deviation * random.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_second_of_silence_after_three_of_noise(recipe: FeatureRecipe) -> None:
    found = loudness(recipe.compute(np.concatenate([noise(3, 0.1), np.zeros(SAMPLE_RATE, np.float32)])), recipe)
    assert found.silent == pytest.approx(0.25, abs=0.01)
    assert found.floor == pytest.approx(0.25, abs=0.01)
    assert found.range_db > 60


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("decibels", [10, 30])
def test_the_range_is_the_distance_of_loud_and_quiet(recipe: FeatureRecipe, decibels: int) -> None:
    samples = np.concatenate([noise(2, 0.1), noise(2, 0.1 * 10 ** (-decibels / 20), seed=1)])
    found = loudness(recipe.compute(samples), recipe)
    assert found.range_db == pytest.approx(decibels, abs=2.5)
    assert (found.silent, found.floor) == (0, 0)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_twice_the_amplitude_is_six_decibels(recipe: FeatureRecipe) -> None:
    one, two = noise(1, 0.01), noise(1, 0.01)
    level_T = frame_levels(recipe.compute(np.concatenate([one, 2 * two])), recipe)
    half = len(level_T) // 2
    assert np.median(level_T[half + 3 :]) - np.median(level_T[: half - 3]) == pytest.approx(6.02, abs=0.1)


def test_shares_of_several_utterances_are_over_their_frames() -> None:
    parts = [Loudness(1.0, 0.5, 10), Loudness(0.0, 0.0, 20), Loudness(0.0, 0.0, 60)]
    assert Loudness.mean(parts, [100, 200, 100]) == Loudness(0.25, 0.125, 20)


def test_peaks_that_are_cut_off_are_clipped_and_those_that_fit_are_not() -> None:
    wave = np.sin(np.linspace(0, 40, 2000)).astype(np.float32)
    assert is_clipped(np.clip(1.5 * wave, -1, 1)) and is_clipped(np.clip(1.5 * wave, -1, 0.5))
    assert not is_clipped(0.98 * wave)
    assert not is_clipped(noise(1, 0.1))
    square = np.array([1.0, -1.0] * 500, np.float32)
    assert not is_clipped(square), "of one sign"


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=12))
def test_three_samples_in_a_row_are_clipped(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    assert is_clipped(samples) == is_clipped(-samples) == ("111" in "".join(str(int(value)) for value in values))
