"""Connected digits joined from the Free Spoken Digit Dataset.

The recordings are `{digit}_{speaker}_{take}.wav`, each one word at 8 kHz. An utterance joins 2 to 6 recordings of a
speaker with short random silences of low noise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.features import SAMPLE_RATE, Samples
from trainables.data.splitting import DevSpeakers, chosen_speakers
from trainables.data.utterance import AudioSource, Recording, Utterance
from trainables.errors import InputError

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
DIGITS_PER_UTTERANCE = (2, 6)
SILENCE_SECONDS = (0.05, 0.3)  # before, between and after the words
NOISE_LEVEL = 3e-4  # standard deviation: -70 dB of full scale, so that a silence is not digital zero
FIRST_TRAINING_TAKE = 5  # takes 0-4 are for validation

_FILE_NAME = re.compile(r"(\d)_(.+)_(\d+)\.wav")


@dataclass(frozen=True)
class JoinedDigits(AudioSource):
    """Recordings joined with silences before, between and after them; `silences` are their lengths in samples."""

    paths: tuple[Path, ...]
    silences: tuple[int, ...]
    noise_seed: tuple[int, ...]

    @property
    def name(self) -> str:
        return str(self.paths[0])

    @property
    def recordings(self) -> tuple[Recording, ...]:
        first, *others = (Recording(None, 0.0, silence / SAMPLE_RATE) for silence in self.silences)
        pairs = zip(map(Recording, self.paths), others, strict=True)
        return (first, *(part for pair in pairs for part in pair))

    def samples(self) -> Samples:
        """Samples (N,) of the joined utterance at 16 kHz."""
        from trainables.data.audio import read_audio

        noise = np.random.default_rng(self.noise_seed)
        parts = [_noise(noise, self.silences[0])]
        for path, silence in zip(self.paths, self.silences[1:], strict=True):
            parts += [read_audio(path), _noise(noise, silence)]
        return np.concatenate(parts)


def _noise(generator: np.random.Generator, samples: int) -> Samples:
    return NOISE_LEVEL * generator.standard_normal(samples, dtype=np.float32)


def fsdd_utterances(
    root: Path,
    held_out_speakers: Sequence[str] = (),
    train: int = 3000,
    dev: int = 250,
    test: int = 250,
    seed: int = 0,
    dev_speakers: DevSpeakers = None,
    dev_seed: int = 0,
) -> list[Utterance]:
    """Connected-digit utterances from the recordings in `root` or `root/recordings`.

    `train` has the takes from 5 on, `dev` takes 0-4 of the same speakers, `test` all takes of the held-out speakers.
    With `dev_speakers`, `dev` has all takes of these speakers instead, and `train` none.
    Equal arguments give equal utterances; a larger split begins with the utterances of a smaller one.

    Args:
        held_out_speakers: speakers of the split `test`; empty: no test split.
        train: number of training utterances.
        dev: number of validation utterances.
        test: number of test utterances.
        seed: random seed of the utterances.
        dev_speakers: names of the speakers of the split `dev`, or how many are drawn from those not held out.
        dev_seed: random seed with which `dev_speakers` are drawn.

    Raises:
        InputError: the folder has no recordings, a held-out speaker is unknown, no speaker is left to train on, or a
            split lacks recordings of a speaker.
    """
    recordings = _find_recordings(root)
    speakers = sorted({recording.speaker for recording in recordings})
    unknown = sorted(set(held_out_speakers) - set(speakers))
    if unknown:
        raise InputError(f"{root}: no speaker named {', '.join(unknown)}", f"The speakers are {', '.join(speakers)}.")
    seen = [name for name in speakers if name not in held_out_speakers]
    if not seen:
        raise InputError(f"{root}: every speaker is held out, so none is left for training", "Hold out fewer speakers.")
    new = chosen_speakers(seen, dev_speakers, dev_seed)
    seen = [name for name in seen if name not in new]
    training = [recording for recording in recordings if recording.take >= FIRST_TRAINING_TAKE]
    validation = [recording for recording in recordings if recording.take < FIRST_TRAINING_TAKE]
    validated = ("dev", dev, recordings, sorted(new)) if new else ("dev", dev, validation, seen)
    plan = [("train", train, training, seen), validated]
    if held_out_speakers:
        plan.append(("test", test, recordings, sorted(set(held_out_speakers))))
    utterances = []
    for number, (split, count, choice, names) in enumerate(plan):
        pool = {name: [recording for recording in choice if recording.speaker == name] for name in names}
        lacking = [name for name in names if not pool[name]]
        if lacking and count:
            raise InputError(
                f"{root}: no recordings for the split {split} by {', '.join(lacking)}",
                f"Add recordings (training: takes from {FIRST_TRAINING_TAKE}; dev: takes before), or remove them.",
            )
        utterances += [_utterance(split, index, pool, (seed, number, index)) for index in range(count)]
    return utterances


@dataclass(frozen=True, order=True)
class _Recording:
    digit: int
    speaker: str
    take: int
    path: Path


def _find_recordings(root: Path) -> list[_Recording]:
    folder = root / "recordings" if (root / "recordings").is_dir() else root
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", "Give the folder of the Free Spoken Digit Dataset.")
    found = [
        _Recording(int(match[1]), match[2], int(match[3]), path)
        for path in folder.iterdir()
        if (match := _FILE_NAME.fullmatch(path.name))
    ]
    if not found:
        raise InputError(
            f"{folder}: no recordings named {{digit}}_{{speaker}}_{{take}}.wav",
            "Give the folder of the Free Spoken Digit Dataset, or its folder recordings.",
        )
    return sorted(found)


def _utterance(split: str, index: int, pool: dict[str, list[_Recording]], seed: tuple[int, ...]) -> Utterance:
    random = np.random.default_rng(seed)
    speaker = list(pool)[random.integers(len(pool))]
    count = random.integers(*DIGITS_PER_UTTERANCE, endpoint=True)
    chosen = [pool[speaker][index] for index in random.integers(len(pool[speaker]), size=count)]
    seconds = random.uniform(*SILENCE_SECONDS, size=count + 1)
    source = JoinedDigits(
        paths=tuple(recording.path for recording in chosen),
        silences=tuple(int(length) for length in np.round(seconds * SAMPLE_RATE)),
        noise_seed=(*seed, 1),
    )
    text = " ".join(WORDS[recording.digit] for recording in chosen)
    return Utterance(f"{split}-{index:05d}-{speaker}", split, text, source, speaker=speaker)
