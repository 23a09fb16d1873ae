"""Synthetic speech: sentences of a small grammar of digits and commands, spoken by espeak-ng.

It needs no data and no network, so the platform can be tried on any machine. Results say nothing about real speech.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.data.features import Samples
from trainables.data.importers.fsdd import WORDS as DIGITS
from trainables.data.importers.tools.espeak import speak
from trainables.data.utterance import AudioSource, Utterance

# Each choice is a language and a variant of espeak-ng; a variant is a speaker.
ACCENTS = ("en-us", "en-gb-scotland")
SPEAKERS = ("m1", "m2", "m3", "m5", "f1", "f2", "f3")
HELD_OUT_SPEAKERS = ("m7", "f4")  # only in `test`
RATES = (130, 190)  # words a minute
PITCHES = (35, 65)  # espeak-ng's scale from 0 to 100

# A command is a sequence of choices; the empty string is silent.
PLACES = ("", "IN THE KITCHEN", "IN THE BEDROOM", "IN THE GARDEN")
COMMANDS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("SET",), ("ALARM", "TIMER"), ("FOR",), DIGITS, ("", "MINUTES", "HOURS")),
    (("TURN",), ("ON", "OFF"), ("THE",), ("LIGHT", "RADIO", "FAN"), PLACES),
    (("OPEN", "CLOSE"), ("THE",), ("DOOR", "WINDOW"), PLACES),
    (("PLAY", "STOP"), ("MUSIC", "NEWS"), PLACES),
    (("VOLUME",), ("UP", "DOWN"), ("", *DIGITS)),
    (("CALL",), ("HOME", "OFFICE")),
)
CALLED_DIGITS = (3, 6)  # digits after CALL NUMBER
SPOKEN_DIGITS = (2, 6)  # digits of a sentence of digits


@dataclass(frozen=True)
class SpokenText(AudioSource):
    """A sentence in a voice of espeak-ng."""

    text: str
    voice: str
    rate: int
    pitch: int

    @property
    def name(self) -> str:
        return f"{self.text!r} spoken by {self.voice}"

    def samples(self) -> Samples:
        return speak(self.text.lower(), self.voice, self.rate, self.pitch)


def synthetic_utterances(train: int = 1500, dev: int = 150, test: int = 150, seed: int = 0) -> list[Utterance]:
    """Utterances of `train` and `dev`, which share voices, and of `test`, which has voices of its own.

    Equal arguments give equal utterances; a larger split begins with the utterances of a smaller one.
    """
    plan = (("train", train, SPEAKERS), ("dev", dev, SPEAKERS), ("test", test, HELD_OUT_SPEAKERS))
    return [
        _utterance(split, index, speakers, np.random.default_rng((seed, number, index)))
        for number, (split, count, speakers) in enumerate(plan)
        for index in range(count)
    ]


def sentence(random: np.random.Generator) -> str:
    """A random sentence: with probability 1/3 digits, 1/6 a number to call, 1/2 a command."""
    kind = random.integers(6)
    if kind < 2:
        return _digits(random, SPOKEN_DIGITS)
    if kind == 2:
        return "CALL NUMBER " + _digits(random, CALLED_DIGITS)
    command = COMMANDS[random.integers(len(COMMANDS))]
    words = [choice[random.integers(len(choice))] for choice in command]
    return " ".join(word for word in words if word)


def _digits(random: np.random.Generator, count: tuple[int, int]) -> str:
    chosen = random.integers(len(DIGITS), size=random.integers(*count, endpoint=True))
    return " ".join(DIGITS[digit] for digit in chosen)


def _utterance(split: str, index: int, speakers: tuple[str, ...], random: np.random.Generator) -> Utterance:
    text = sentence(random)
    speaker = speakers[random.integers(len(speakers))]
    source = SpokenText(
        text=text,
        voice=f"{ACCENTS[random.integers(len(ACCENTS))]}+{speaker}",
        rate=int(random.integers(*RATES, endpoint=True)),
        pitch=int(random.integers(*PITCHES, endpoint=True)),
    )
    return Utterance(f"{split}-{index:05d}-{source.voice}", split, text, source, speaker=speaker)
