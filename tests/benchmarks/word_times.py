"""How far the times of words are from the true ones, and what cutting long recordings costs. Run by hand.

python tests/benchmarks/word_times.py MODEL FSDD [--piece-seconds X] [--utterances 250]

The validation utterances of connected digits are real recordings of single words joined with silences, so it is known
where each word begins and ends, the silence in the recordings themselves included. Once each utterance is a recording,
and once those of a speaker are one long recording. Only words that were understood have errors of time.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr_platform.inference.parallel import load
from asr_platform.inference.recordings import Recording
from asr_platform.inference.transcribe import transcribe
from trainables.data.audio import read_audio
from trainables.data.features import SAMPLE_RATE, Samples
from trainables.data.importers.fsdd import JoinedDigits, fsdd_utterances
from trainables.decoding import Word
from trainables.evaluation.metrics import align_words, word_error_rate
from trainables.inference.recognizer import Recognizer

Spoken = tuple[Samples, list[Word]]


def spoken(source: JoinedDigits, text: str) -> Spoken:
    """An utterance, and its words with their true times."""
    words, now = [], source.silences[0]
    for word, path, silence in zip(text.split(), source.paths, source.silences[1:], strict=True):
        length = len(read_audio(path))
        words.append(Word(word, now / SAMPLE_RATE, (now + length) / SAMPLE_RATE))
        now += length + silence
    return source.samples(), words


def one_after_another(parts: list[Spoken]) -> Spoken:
    words, now = [], 0.0
    for samples, said in parts:
        words += [Word(word.text, word.start + now, word.end + now) for word in said]
        now += len(samples) / SAMPLE_RATE
    return np.concatenate([samples for samples, _ in parts]), words


def measure(recognizer: Recognizer, recordings: list[Spoken], piece_seconds: float | None) -> tuple[float, NDArray]:
    """The word error rate, and the errors in seconds of starts and ends (N, 2)."""
    listed = [Recording(str(number), Path(), samples) for number, (samples, _) in enumerate(recordings)]
    found = [item.words or [] for item in transcribe(recognizer, listed, timed=True, piece_seconds=piece_seconds)]
    references, hypotheses = (
        [" ".join(word.text for word in words) for words in rows] for rows in ([said for _, said in recordings], found)
    )
    errors = []
    for (_, said), heard, alignment in zip(recordings, found, align_words(references, hypotheses), strict=True):
        one, other = iter(said), iter(heard)
        for pair in alignment:
            true, timed = next(one) if pair.reference else None, next(other) if pair.hypothesis else None
            if true and timed and pair.operation == "equal":
                errors.append((timed.start - true.start, timed.end - true.end))
    return word_error_rate(references, hypotheses), np.array(errors).reshape(-1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("fsdd", type=Path)
    parser.add_argument("--piece-seconds", type=float, help="default: as the model was trained")
    parser.add_argument("--utterances", type=int, default=250)
    arguments = parser.parse_args()
    recognizer = load(arguments.model)
    found = [
        (utterance.id.split("-")[2], spoken(utterance.source, utterance.text or ""))
        for utterance in fsdd_utterances(arguments.fsdd, train=0, dev=arguments.utterances)
        if isinstance(utterance.source, JoinedDigits)
    ]
    found.sort(key=lambda item: item[0])
    joined = [one_after_another([part for _, part in parts]) for _, parts in groupby(found, key=lambda item: item[0])]
    print("ms: median of the absolute error (its 90% quantile; median of the error)")
    for name, recordings in (("utterances", [part for _, part in found]), ("long recordings", joined)):
        rate, errors = measure(recognizer, recordings, arguments.piece_seconds)
        seconds = np.mean([len(samples) for samples, _ in recordings]) / SAMPLE_RATE
        print(f"{len(recordings)} {name} of {seconds:.1f} s: WER {rate:.2%}")
        for kind, column in zip(("starts", "ends"), 1000 * errors.T, strict=True) if len(errors) else ():
            middle, far = np.quantile(np.abs(column), [0.5, 0.9])
            print(f"  {kind}: {middle:.0f} ms ({far:.0f}; {np.median(column):+.0f})")


if __name__ == "__main__":
    main()
