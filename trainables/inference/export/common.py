"""What the example scripts of all exports share, and have beside them: WAV files, features, texts.

Shapes: T frames, F mel bins.
"""

from __future__ import annotations

import math
import sys
import wave
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

SAMPLE_RATE = 16_000  # Hz


def text_of(tokens: list[int], tokenizer: Any, about: dict[str, Any]) -> str:
    """Text that a sequence of tokens stands for."""
    text = "".join(tokenizer.id_to_piece(token) for token in tokens).replace("▁", " ")
    return text if about["config"]["tokenizer"]["kind"] == "char" else text.removeprefix(" ")


def features_of(samples: Floats, recipe: dict[str, Any]) -> Floats:
    """Log-mel features (T, F) of samples in [-1, 1] at 16 kHz, by the `recipe` in `recognizer.json`."""
    return (hw4_features if recipe["name"] == "hw4" else kaldi_features)(samples, recipe["bins"])


def hw4_features(samples: Floats, bins: int) -> Floats:
    """Log-mel features in decibels relative to the utterance's peak, 125 frames a second.

    Equal to librosa's power_to_db(melspectrogram(y=samples, sr=16000, n_fft=512, hop_length=128, n_mels=bins,
    pad_mode="constant"), ref=max).T
    """
    edge = np.zeros(256)
    frames = np.lib.stride_tricks.sliding_window_view(np.concatenate([edge, samples, edge]), 512)[::128]
    power = np.abs(np.fft.rfft(frames * np.hanning(513)[:-1])) ** 2
    mel = np.maximum(power @ slaney_filters(bins).T, 1e-10)
    return np.maximum(10 * np.log10(mel / mel.max()), -80).astype(np.float32)


def slaney_filters(bins: int) -> Floats:
    """Mel filters of equal area, (F, frequencies); Slaney's mel scale is linear below 1 kHz and logarithmic above."""
    mels = np.linspace(0, 15 + 27 * math.log(8) / math.log(6.4), bins + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))  # Hz
    frequencies = np.linspace(0, SAMPLE_RATE / 2, 257)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters: Floats = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return filters


def kaldi_features(samples: Floats, bins: int) -> Floats:
    """Log-mel features of Kaldi's filter bank, 100 frames a second."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = bins
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, samples.astype(np.float32))
    computer.input_finished()
    return np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])


def read_wav(path: str) -> Floats:
    """Samples in [-1, 1] at 16 kHz of a WAV file with 8, 16, 24 or 32 bits a sample; channels are averaged."""
    try:
        with wave.open(path) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            content = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
        if not rate or not len(content) or len(content) % (channels * width):
            raise wave.Error("no samples, or not whole ones")
    except (wave.Error, EOFError) as error:
        sys.exit(f"{path}: not a whole PCM file ({error}); convert it: sox {path} -e signed -b 16 OUT.wav")
    padded = np.zeros((len(content) // width, 4), np.uint8)  # little-endian: the first bytes count least
    padded[:, 4 - width :] = content.reshape(-1, width) ^ (128 if width == 1 else 0)  # 8 bits have no sign
    return resampled((padded.view("<i4") / 2**31).reshape(-1, channels).mean(axis=1), rate)


def resampled(samples: Floats, rate: int) -> Floats:
    """Samples at `rate` Hz -> samples at 16 kHz.

    A low-pass filter, the sinc with a Kaiser window, is laid around each place of the output. Of the frequencies up to
    half the lower of the two rates it passes 91.4%, and from there falls to -100 dB, as soxr's high quality does, by
    which the speech of the training was resampled.
    """
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    if up == down:
        return samples
    cutoff = 0.957 * min(1, up / down)  # middle of the fall, in half the input's rate
    reach = math.ceil(75 / cutoff)  # samples to each side; fewer let it fall more slowly
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, reach), 2 * reach + 1)
    found = np.empty(-(-len(samples) * up // down))
    for phase in range(min(up, len(found))):  # every `up` samples lie alike between those of the input
        centre, part = divmod(phase * down, up)
        offsets = np.arange(-reach, reach + 1) - part / up
        taps = np.sinc(cutoff * offsets) * np.i0(10 * np.sqrt(np.maximum(0, 1 - (offsets / reach) ** 2)))
        found[phase::up] = windows[centre::down] @ (taps / taps.sum())
    return found
