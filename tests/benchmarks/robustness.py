"""How a model's errors grow with noise, rooms, speed and bandwidth that its training had not. Run by hand.

python tests/benchmarks/robustness.py MODEL --data DIR [--split dev] [--utterances N] [--plot FILE.png] [--json FILE]

The audio of the split is changed and transcribed anew with the model's own decoding options. Noise has a
signal-to-noise ratio over the whole utterance: white, pink (-3 dB an octave), or babble of three other utterances. The
room is exponentially decaying noise of half a second (60 dB), with as much energy as the direct sound. Speed changes
the pitch too. The telephone keeps 300 to 3,400 Hz.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soxr

from asr_platform.analysis.bootstrap import error_interval
from asr_platform.inference.evaluate import open_scored, references_of
from trainables.data.features import SAMPLE_RATE, Samples
from trainables.data.inspection.signals import audio_of
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.recognizer import Recognizer

RATIOS = (20, 10, 5, 0)  # dB
NOISES = ("white", "pink", "babble")
VOICES = 3
ROOM_SECONDS = 0.5
Change = Callable[[int, Samples], Samples]


class Changes:
    """Changes of the audio of a split, by name: functions of an utterance's number and samples."""

    def __init__(self, audio: list[Samples]) -> None:
        self.audio = audio
        self.named: dict[str, Change] = {"clean": lambda number, samples: samples}
        for noise in NOISES:
            for ratio in RATIOS:
                self.named[f"{noise} {ratio} dB"] = self.noisy(noise, ratio)
        self.named["room"] = lambda number, samples: in_room(samples, np.random.default_rng(number))
        for speed in (0.8, 1.2):
            self.named[f"speed {speed}"] = lambda number, samples, speed=speed: soxr.resample(
                samples, SAMPLE_RATE, SAMPLE_RATE / speed
            )
        self.named["telephone"] = lambda number, samples: shaped(
            samples, lambda hertz: (hertz >= 300) & (hertz <= 3_400)
        )

    def noisy(self, noise: str, ratio: float) -> Change:
        def change(number: int, samples: Samples) -> Samples:
            random = np.random.default_rng([NOISES.index(noise), number])
            if noise == "babble":
                others = random.choice(len(self.audio), VOICES)
                sound = sum(np.resize(self.audio[other], len(samples)) for other in others)
            else:
                sound = random.normal(0, 1, len(samples))
                if noise == "pink":
                    sound = shaped(sound, lambda hertz: 1 / np.sqrt(np.maximum(hertz, 20.0)))
            gain = np.sqrt(np.mean(samples**2) / (np.mean(np.square(sound)) * 10 ** (ratio / 10) + 1e-20))
            return (samples + gain * sound).astype(np.float32)

        return change


def shaped(samples: Samples, response: Callable[[np.ndarray], np.ndarray]) -> Samples:
    """Samples with the spectrum multiplied by `response` of the frequency in Hz."""
    spectrum = np.fft.rfft(samples) * response(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE))
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def in_room(samples: Samples, random: np.random.Generator) -> Samples:
    """Samples with the reverberation of a room, of the same length."""
    time = np.arange(int(ROOM_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    tail = random.normal(0, 1, len(time)) * 10 ** (-3 * time / ROOM_SECONDS)
    response = np.concatenate([[1.0], tail / np.sqrt(np.sum(tail**2))])
    size = len(samples) + len(response)
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)].astype(
        np.float32
    )


def measure(recognizer: Recognizer, audio: list[Samples], change: Change, references: list[str], ids: list[str],
            speakers: list[str | None] | None) -> dict[str, float | list[float]]:  # fmt: skip
    """CER and WER with their 95% intervals, as fractions."""
    features = [recognizer.recipe.compute(change(number, samples)) for number, samples in enumerate(audio)]
    errors = UtteranceErrors.of("", None, ids, references, recognizer.transcribe(features), speakers)
    cer, wer = error_interval(errors), error_interval(errors, words=True)
    return {"cer": errors.cer, "cer_interval": list(cer), "wer": errors.wer, "wer_interval": list(wer)}


def plot(rows: dict[str, dict[str, float | list[float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.32 * len(rows) + 1.2), layout="constrained")
    for place, (name, row) in enumerate(reversed(rows.items())):
        low, high = row["wer_interval"]
        axes.plot([100 * low, 100 * high], [place, place], color="#4477aa", linewidth=2)
        axes.plot(100 * row["wer"], place, "o", color="#4477aa")
        axes.text(-0.01, place, name, ha="right", va="center", transform=axes.get_yaxis_transform())
    axes.set(yticks=[], xlabel="WER in percent, with 95% intervals", xlim=(0, None))
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--utterances", type=int, help="so many, drawn at random; default: all")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recognizer, split = open_scored(arguments.model, arguments.data, arguments.split)
    chosen = np.arange(len(split))
    if arguments.utterances and arguments.utterances < len(split):
        chosen = np.sort(np.random.default_rng(0).choice(chosen, arguments.utterances, replace=False))
    texts = references_of(recognizer, split)
    audio = [samples for place in chosen if (samples := audio_of(split, int(place))) is not None]
    if len(audio) < len(chosen):
        raise InputError(f"{arguments.data}: the audio of {len(chosen) - len(audio)} utterances is not there", "")
    about = [texts[place] for place in chosen], [split.ids[place] for place in chosen]
    speakers = split.speakers_of(about[1])
    rows = {}
    print(f"{'':>14}  {'CER':>7}  {'interval':>13}  {'WER':>7}  {'interval':>13}")
    for name, change in Changes(audio).named.items():
        row = rows[name] = measure(recognizer, audio, change, *about, speakers)
        cells = (f"{row[rate]:7.2%}  {100 * row[f'{rate}_interval'][0]:5.1f}–{row[f'{rate}_interval'][1]:6.1%}"
                 for rate in ("cer", "wer"))  # fmt: skip
        print(f"{name:>14}  {'  '.join(cells)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
