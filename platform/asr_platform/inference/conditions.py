"""Error rates of a model in noise, rooms, speeds and bandwidths that it was not trained on.

The audio of a split is changed and transcribed anew. Noise has a signal-to-noise ratio over the whole utterance: white,
pink (-3 dB an octave), or babble of three other utterances, of which one may come twice. The room is exponentially
decaying noise of half a second (60 dB), with as much energy as the direct sound. Speed changes the pitch too. The
telephone keeps 300 to 3,400 Hz.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soxr

from asr_platform.analysis.kept_scores import Score, keep_scores
from asr_platform.inference.evaluate import open_scored, references_of
from asr_platform.tracking.model_card import CARD, with_conditions
from trainables.data.corpus import Corpus, Split
from trainables.data.features import SAMPLE_RATE, Samples
from trainables.data.inspection.signals import audio_of
from trainables.decoding import Search
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.folders import written_whole
from trainables.inference.decoding_options import decoding_with, in_words
from trainables.inference.recognizer import Recognizer

CLEAN = "clean"  # the audio as it is
RATIOS = (20, 10, 5, 0)  # dB
NOISES = ("white", "pink", "babble")
VOICES = 3
ROOM_SECONDS = 0.5
SAMPLED = 250  # utterances in each condition, if not asked otherwise
Change = Callable[[int, Samples], Samples]


class Conditions:
    """Changes of the audio of a split, by name: functions of an utterance's number and samples (T,)."""

    def __init__(self, audio: list[Samples]) -> None:
        self.audio = audio
        self.named: dict[str, Change] = {CLEAN: lambda number, samples: samples}
        for noise in NOISES:
            for ratio in RATIOS:
                self.named[f"{noise} {ratio} dB"] = self.noisy(noise, ratio)
        self.named["room"] = lambda number, samples: in_room(samples, np.random.default_rng(number))
        for speed in (0.8, 1.2):
            self.named[f"speed {speed}"] = partial(at_speed, speed)
        self.named["telephone"] = lambda number, samples: shaped(
            samples, lambda hertz: (hertz >= 300) & (hertz <= 3_400)
        )

    def noisy(self, noise: str, ratio: float) -> Change:
        def change(number: int, samples: Samples) -> Samples:
            random = np.random.default_rng([NOISES.index(noise), number])
            if noise == "babble":
                others = (number + random.integers(1, max(len(self.audio), 2), VOICES)) % len(self.audio)
                sound = sum(np.resize(self.audio[other], len(samples)) for other in others)
            else:
                sound = random.standard_normal(len(samples), np.float32)
                if noise == "pink":
                    sound = shaped(sound, lambda hertz: 1 / np.sqrt(np.maximum(hertz, 20.0)))
            gain = np.sqrt(np.mean(samples**2) / (np.mean(np.square(sound)) * 10 ** (ratio / 10) + 1e-20))
            return (samples + gain * sound).astype(np.float32)

        return change


def at_speed(speed: float, number: int, samples: Samples) -> Samples:
    """Samples of the same words at another speed and pitch."""
    return np.asarray(soxr.resample(samples, SAMPLE_RATE, SAMPLE_RATE / speed), np.float32)


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


def evaluate_conditions(
    model: Path, data: Path, split: str, decoding: Mapping[str, Any] = MappingProxyType({}), utterances: int = SAMPLED
) -> Iterator[Score]:
    """Scores a recogniser on a split's audio in each condition, the unchanged audio first.

    The scores are kept in the model directory, where the report and the model card find them.

    Args:
        decoding: decoding options that replace those of the model.
        utterances: so many are drawn at random where the split has more.

    Raises:
        InputError: as `evaluate_model`, or the audio of an utterance is not there.
    """
    recognizer, whole = open_scored(model, data, split)
    options, places = decoding_with(recognizer.config, decoding), np.arange(len(whole))
    if utterances < len(places):
        places = np.sort(np.random.default_rng(0).choice(places, utterances, replace=False))
    chosen, corpus_hash, found = whole.part(split, places), Corpus.open(data).hash, []
    for name, errors in errors_in_conditions(recognizer, chosen, search=recognizer.search(options)):
        score = Score.of(errors, corpus_hash, in_words(options), name)
        found.append(score)
        yield score
    keep_scores(model, found)
    if (model / CARD).is_file():
        card = with_conditions((model / CARD).read_text(encoding="utf-8"), found)
        with suppress(InputError), written_whole(model / CARD) as file:  # as scores: not on a folder of others
            file.write(card)


def errors_in_conditions(
    recognizer: Recognizer, split: Split, names: Iterable[str] | None = None, search: Search | None = None
) -> Iterator[tuple[str, UtteranceErrors]]:
    """Yields the errors in every utterance of a split in each condition.

    Args:
        names: names of the conditions; None: all.
        search: None: the model's own.

    Raises:
        InputError: the audio of an utterance is not there.
    """
    found = [audio_of(split, place) for place in range(len(split))]
    audio = [samples for samples in found if samples is not None]
    if len(audio) < len(found):
        raise InputError(
            f"{split.name}: the audio of {len(found) - len(audio):,} of {len(found):,} utterances is not there",
            "Noise and rooms are added to audio: prepare the corpus from audio files, and leave them where they were.",
        )
    references, changes = references_of(recognizer, split), Conditions(audio).named
    for name in names or changes:
        features = [recognizer.recipe.compute(changes[name](number, samples)) for number, samples in enumerate(audio)]
        hypotheses = recognizer.transcribe(features, search)
        yield name, UtteranceErrors.of(split.name, None, split.ids, references, hypotheses, split.speakers)
