"""The exported script reads WAV files of any sample rate, width and number of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from trainables.data.audio import read_audio
from trainables.data.features import SAMPLE_RATE, FeatureRecipe
from trainables.inference.export.common import hw4_features, read_wav, resampled

RATES = [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 12_345]
WIDTHS = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


def noise(rate: int, seconds: float = 0.5) -> np.ndarray:
    """Noise that falls off towards high frequencies, as speech does, and grows louder."""
    count = int(rate * seconds)
    white = np.random.default_rng(0).normal(0, 1, count)
    pink = np.fft.irfft(np.fft.rfft(white) / np.maximum(np.fft.rfftfreq(count, 1 / rate), 100) * 100, count)
    return 0.5 * pink / np.abs(pink).max() * np.linspace(0.1, 1, count)


@given(st.sampled_from(RATES), st.floats(0.02, 0.9), st.floats(0, 6.28))
def test_a_tone_stays_a_tone(rate: int, share: float, phase: float) -> None:
    """At any frequency up to 0.9 of half the lower rate, but for the edges."""
    frequency = share * min(rate, SAMPLE_RATE) / 2
    found = resampled(np.sin(2 * np.pi * frequency * np.arange(rate // 4) / rate + phase), rate)
    expected = np.sin(2 * np.pi * frequency * np.arange(len(found)) / SAMPLE_RATE + phase)
    assert len(found) == -(-(rate // 4) * SAMPLE_RATE // rate)
    inner = slice(SAMPLE_RATE // 40, -SAMPLE_RATE // 40)
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_frequencies_beyond_half_the_sample_rate_vanish(rate: int) -> None:
    found = resampled(np.sin(2 * np.pi * 8_100 * np.arange(rate // 4) / rate), rate)
    assert np.abs(found[400:-400]).max() < 1e-3


@pytest.mark.parametrize("rate", RATES)
def test_samples_are_those_of_soxr(rate: int) -> None:
    samples = noise(rate)
    found, expected = resampled(samples, rate), soxr.resample(samples, rate, SAMPLE_RATE)
    assert abs(len(found) - len(expected)) <= 1
    shorter = min(len(found), len(expected))
    assert np.abs(found[:shorter] - expected[:shorter])[400:-400].max() < 0.003 * np.abs(expected).max()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_a_file_is_read_as_elsewhere(rate: int, width: str, channels: int, tmp_path: Path) -> None:
    samples = noise(rate)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([samples, 0.5 * samples][:channels], axis=1), rate, subtype=width)
    found, expected = read_wav(str(path)), read_audio(path)
    if rate == SAMPLE_RATE:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    recipe = FeatureRecipe(name="hw4")
    ours_TF, theirs_TF = hw4_features(found, recipe.bins), recipe.compute(expected)
    assert len(ours_TF) == len(theirs_TF)
    # In dB, but for the uppermost bins, where the two filters end, and for the edges.
    assert np.abs(ours_TF - theirs_TF)[4:-4, : -recipe.bins // 10].max() < 0.1


def test_what_is_no_whole_pcm_file_is_refused_with_its_name(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("float.wav", "empty.wav", "text.wav", "short.wav")]
    soundfile.write(paths[0], noise(8_000), 8_000, subtype="FLOAT")
    soundfile.write(paths[1], noise(8_000)[:0], 8_000)
    paths[2].write_text("no audio")
    paths[3].write_bytes(b"RIFF")
    for path in paths:
        with pytest.raises(SystemExit, match=rf"{path.name}: not a whole PCM file .*; convert it: sox"):
            read_wav(str(path))
