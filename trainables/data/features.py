"""Log-mel features of samples, for preparing and transcribing alike.

Two feature recipes, both from mono float32 samples at 16 kHz to float32 features (T, F):

- `hw4`: features of homework 4 of CMU 11-785, decibels below the utterance's peak, 125 frames a second;
- `kaldi`: Kaldi's filter bank, natural logarithm of the energies, 100 frames a second.

Modules that compute features in worker processes do not import torch: it would take most of a short worker's life.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # training computes no features
    import kaldi_native_fbank

Samples = npt.NDArray[np.float32]
Frames = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz; `trainables.data.audio` resamples to it
HOP_LENGTH = {"hw4": 128, "kaldi": 160}  # samples: 8 ms and 10 ms

HW4_FFT = 512  # samples of the window and of the transform
HW4_FLOOR = 1e-10  # smaller powers count as this
HW4_RANGE = 80.0  # dB below the utterance's peak that are kept
HW4_TOP_FREQUENCY = 8_000.0  # Hz
KALDI_EMPHASIS = 0.97
KALDI_LOW_FREQUENCY = 20.0  # Hz; the highest is half the sample rate, both Kaldi's defaults
NEPERS_PER_DECIBEL = math.log(10) / 10  # of powers
HW4_BLOCK = 1024  # frames transformed at once: an hour of audio needs no more memory than a minute


class FeatureRecipe(BaseModel):
    """Feature-extraction settings (feature recipe), recorded in every corpus and model directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["hw4", "kaldi"] = "hw4"
    sample_rate: Literal[16_000] = 16_000
    bins: int = Field(default=80, ge=1)

    @property
    def hop_length(self) -> int:
        """Samples between the starts of consecutive frames."""
        return HOP_LENGTH[self.name]

    @property
    def hop_seconds(self) -> float:
        """Seconds between the starts of consecutive frames."""
        return self.hop_length / self.sample_rate

    @property
    def frames_per_second(self) -> float:
        """Feature frames per second of audio."""
        return self.sample_rate / self.hop_length

    @property
    def decibel(self) -> float:
        """A decibel in the unit of the features: 1, or ln(10) / 10 if they are natural logarithms of powers."""
        return 1.0 if self.name == "hw4" else NEPERS_PER_DECIBEL

    @property
    def nepers(self) -> float:
        """A unit of the features in nepers: 1, or ln(10) / 10 if they are decibels."""
        return NEPERS_PER_DECIBEL / self.decibel

    def bin_centers(self) -> npt.NDArray[np.float64]:
        """Frequency in Hz of the peak of each mel filter, (F,)."""
        if self.name == "hw4":
            return _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(HW4_TOP_FREQUENCY), self.bins + 2))[1:-1]
        low, high = (1127.0 * math.log(1 + hertz / 700.0) for hertz in (KALDI_LOW_FREQUENCY, SAMPLE_RATE / 2))
        return 700.0 * np.expm1(np.linspace(low, high, self.bins + 2)[1:-1] / 1127.0)

    def power_weights(self) -> npt.NDArray[np.float64]:
        """Weights (F,) with which the powers of the mel bins sum up to a multiple of the samples' power.

        Filters of `hw4` have equal areas, so that a bin counts as its width in Hz; those of `kaldi` overlap to a sum of
        1, but the samples are pre-emphasised, which the weights undo.
        """
        centers_F = self.bin_centers()
        if self.name == "hw4":
            return np.gradient(centers_F) if self.bins > 1 else np.ones(1)
        angle_F = 2 * np.pi * centers_F / self.sample_rate
        weights_F: npt.NDArray[np.float64] = 1 / (1 + KALDI_EMPHASIS**2 - 2 * KALDI_EMPHASIS * np.cos(angle_F))
        return weights_F

    def frame_count(self, samples: int) -> int:
        """Number of frames T that `compute` returns for a number of samples."""
        if self.name == "hw4":
            return 1 + samples // self.hop_length
        return (samples + self.hop_length // 2) // self.hop_length

    def compute(self, samples: Samples) -> Frames:
        """Features (T, F) of mono samples (N,) at `sample_rate`, in [-1, 1].

        Raises:
            ValueError: `samples` is not one-dimensional, or too short for a single frame.
        """
        if samples.ndim != 1 or self.frame_count(len(samples)) < 1 or not len(samples):
            raise ValueError(f"samples must be (N,) and hold a frame, but got shape {samples.shape}")
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        return hw4_features(samples, self.bins) if self.name == "hw4" else kaldi_features(samples, self.bins)


def hw4_features(samples: Samples, bins: int = 80) -> Frames:
    """Log-mel spectrogram (T, F) of CMU 11-785's homework 4, in dB from -80 to 0; T = 1 + N // 128.

    Equal to librosa's `power_to_db(melspectrogram(y, sr=16000, n_fft=512, hop_length=128,
    n_mels=bins, power=2.0, htk=False, norm='slaney', fmax=8000), ref=max)`: frames centred on
    their hop with zeros beyond both ends, a periodic Hann window, triangles of equal area on
    Slaney's mel scale, then decibels relative to the largest value, cut 80 dB below it.
    """
    edge = np.zeros(HW4_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(np.concatenate([edge, samples, edge]), HW4_FFT)
    frames = frames[:: HOP_LENGTH["hw4"]]  # (T, n_fft), a view
    # float64: float32's rounding shows 80 dB below the peak, about 4e-4 dB that differ between machines.
    # Each filter is applied to the few frequencies that it covers: as fast as a product of matrices, without the
    # threads that numpy starts for one, which compete with the worker processes.
    mel = np.empty((len(frames), bins))
    for start in range(0, len(frames), HW4_BLOCK):
        spectrum = np.fft.rfft(frames[start : start + HW4_BLOCK] * _hann_window(), axis=1)  # (T, n_fft / 2 + 1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        for bin, (first, weights) in enumerate(_slaney_filters(bins)):
            covered = power[:, first : first + len(weights)]
            mel[start : start + HW4_BLOCK, bin] = np.einsum("tk,k->t", covered, weights)
    np.maximum(mel, HW4_FLOOR, out=mel)
    decibels = 10.0 * (np.log10(mel) - np.log10(mel.max()))
    features: Frames = np.maximum(decibels, -HW4_RANGE).astype(np.float32)
    return features


def kaldi_features(samples: Samples, bins: int = 80) -> Frames:
    """Kaldi's filter bank (T, F): natural logarithm of the mel energies of samples in [-1, 1].

    Windows of 25 ms every 10 ms, Povey window, pre-emphasis 0.97, no dither (so the result is
    deterministic), the signal mirrored at both ends (`snip_edges=False`, T = round(N / 160)).
    Silence is log(1.19e-7) = -15.9.
    """
    import kaldi_native_fbank

    computer = kaldi_native_fbank.OnlineFbank(_kaldi_options(bins))
    computer.accept_waveform(SAMPLE_RATE, samples)
    computer.input_finished()
    return np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)]).astype(np.float32)


@cache
def _kaldi_options(bins: int) -> kaldi_native_fbank.FbankOptions:
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.frame_shift_ms = 1000 * HOP_LENGTH["kaldi"] / SAMPLE_RATE
    options.frame_opts.frame_length_ms = 25
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = bins
    return options


@cache
def _hann_window() -> npt.NDArray[np.float64]:
    return np.hanning(HW4_FFT + 1)[:-1]  # periodic


@cache
def _slaney_filters(bins: int) -> list[tuple[int, npt.NDArray[np.float64]]]:
    """Triangular mel filters of area 1 in Hz, each as (index of its first frequency, its weights from there on).

    Slaney's Auditory Toolbox, as in librosa's `filters.mel(htk=False, norm='slaney')`.
    """
    mels = np.linspace(0.0, _hertz_to_mel(HW4_TOP_FREQUENCY), bins + 2)
    edges = _mel_to_hertz(mels)  # (F + 2,) Hz: each filter starts, peaks and ends at three in a row
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, HW4_FFT // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    triangles *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    covered = [np.flatnonzero(triangle) for triangle in triangles]
    return [
        (int(found[0]), triangle[found[0] : found[-1] + 1]) if len(found) else (0, triangle[:0])
        for found, triangle in zip(covered, triangles, strict=True)
    ]


# Slaney's mel scale: linear below 1 kHz (15 mels), logarithmic above with 27 mels to a factor of 6.4.
_LINEAR_HERTZ = 200.0 / 3.0
_BREAK_HERTZ = 1000.0
_BREAK_MEL = _BREAK_HERTZ / _LINEAR_HERTZ
_LOG_STEP = math.log(6.4) / 27.0


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz / _LINEAR_HERTZ
    return _BREAK_MEL + math.log(hertz / _BREAK_HERTZ) / _LOG_STEP


def _mel_to_hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logarithmic = _BREAK_HERTZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL))
    return np.where(mels < _BREAK_MEL, mels * _LINEAR_HERTZ, logarithmic)
