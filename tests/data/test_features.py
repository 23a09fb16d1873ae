"""Features against real files and against a second implementation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.data.audio import read_audio
from trainables.data.features import SAMPLE_RATE, FeatureRecipe, Samples

REPOSITORY = Path(__file__).parents[2]
BOTH_WAYS = {  # utterances that exist as audio and as the course's features
    "103-1240-0000": "train-clean-100",
    "1089-134686-0000": "test-clean",
    "1089-134686-0001": "test-clean",
}
HW4, KALDI = FeatureRecipe(name="hw4"), FeatureRecipe(name="kaldi")


def noise(samples: int, seed: int = 0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def tone(hertz: float, seconds: float, rate: int = SAMPLE_RATE) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("utterance", BOTH_WAYS)
def test_hw4_equals_the_course_features(speech_data: Path, utterance: str) -> None:
    split = BOTH_WAYS[utterance]
    speaker, chapter, _ = utterance.split("-")
    samples = read_audio(speech_data / "librispeech" / split / speaker / chapter / f"{utterance}.flac")
    real = np.load(speech_data / "hw4_data_subset" / "hw4p2_data" / split / "fbank" / f"{utterance}.npy").T
    features = HW4.compute(samples)
    assert features.shape == real.shape and features.dtype == np.float32
    np.testing.assert_allclose(features, real, rtol=0, atol=1e-3)


def reference_hw4(samples: Samples, bins: int) -> npt.NDArray[np.floating]:
    """The formula again with torch's transform, and the mel scale written the other way."""
    window = torch.hann_window(512, dtype=torch.float64)
    padded = torch.from_numpy(samples).double()
    power = torch.stft(padded, 512, 128, window=window, pad_mode="constant", return_complex=True).abs().square()
    hertz = np.concatenate([np.arange(0, 1000, 0.01), np.arange(1000, 8000.01, 0.01)])
    mels = np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))
    edges = np.interp(np.linspace(0, mels[-1], bins + 2), mels, hertz)
    frequencies = np.arange(257) * 31.25
    filters = np.stack(
        [
            np.interp(frequencies, edges[bin : bin + 3], [0, 2 / (edges[bin + 2] - edges[bin]), 0], left=0, right=0)
            for bin in range(bins)
        ]
    )
    mel = np.maximum(filters @ power.numpy(), 1e-10)
    decibels: npt.NDArray[np.floating] = np.maximum(10 * np.log10(mel / mel.max()), -80).T
    return decibels


@pytest.mark.parametrize("bins", [8, 40, 80, 128])
@pytest.mark.parametrize("samples", [1, 127, 128, 5000, 300_000])  # the last one needs several blocks
def test_hw4_equals_a_second_implementation(samples: int, bins: int) -> None:
    audio = noise(samples)
    features = FeatureRecipe(name="hw4", bins=bins).compute(audio)
    np.testing.assert_allclose(features, reference_hw4(audio, bins), rtol=0, atol=2e-2 if bins == 128 else 1e-3)


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(1, 5000), recipe=st.sampled_from([HW4, KALDI]))
def test_frame_count_is_what_compute_gives(samples: int, recipe: FeatureRecipe) -> None:
    frames = recipe.frame_count(samples)
    if frames < 1:
        with pytest.raises(ValueError, match="hold a frame"):
            recipe.compute(noise(samples))
    else:
        features = recipe.compute(noise(samples))
        assert features.shape == (frames, 80) and features.dtype == np.float32 and np.isfinite(features).all()


def test_rates_are_derived() -> None:
    assert (HW4.hop_seconds, HW4.frames_per_second) == (0.008, 125)
    assert (KALDI.hop_seconds, KALDI.frames_per_second) == (0.01, 100)
    assert FeatureRecipe.model_validate_json(KALDI.model_dump_json()) == KALDI


@pytest.mark.parametrize("recipe", [HW4, KALDI], ids=["hw4", "kaldi"])
def test_silence_is_finite_and_stereo_samples_are_refused(recipe: FeatureRecipe) -> None:
    assert np.isfinite(recipe.compute(np.zeros(4000, dtype=np.float32))).all()
    with pytest.raises(ValueError, match=r"\(100, 2\)"):
        recipe.compute(np.zeros((100, 2), dtype=np.float32))


def test_kaldi_is_a_natural_logarithm_of_power() -> None:
    audio = noise(16000)
    louder, quieter = KALDI.compute(audio), KALDI.compute(audio / np.float32(2))
    np.testing.assert_allclose(louder - quieter, np.log(4), atol=1e-2)


@pytest.mark.parametrize("recipe", [HW4, KALDI], ids=["hw4", "kaldi"])
def test_a_higher_tone_is_in_a_higher_bin(recipe: FeatureRecipe) -> None:
    peaks = [recipe.compute(tone(hertz, 0.5)).mean(axis=0).argmax() for hertz in (200, 500, 1000, 2000, 4000, 7000)]
    assert peaks == sorted(set(peaks))


def test_workers_do_not_load_torch() -> None:
    importers = (f"importers.{path.stem}" for path in Path(REPOSITORY, "trainables/data/importers").glob("[a-z]*.py"))
    imports = ", ".join(f"trainables.data.{module}" for module in ("workers", "utterance", *importers))
    program = f"import sys, {imports}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)
