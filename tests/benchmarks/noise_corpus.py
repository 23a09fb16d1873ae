"""A corpus of noise and made-up words with the lengths of LibriSpeech train-clean-100, for machines without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import FeatureRecipe

# Mean 12.7 s, standard deviation 3.6 s, seven in ten between 12 and 16.5 s: uniform between these edges, in seconds.
LENGTH_EDGES = np.array([1.4, 3, 5, 8, 10, 12, 13, 14, 15, 16, 16.5, 17, 24.5])
LENGTH_SHARES = np.array([0.02, 0.04, 0.075, 0.055, 0.085, 0.085, 0.15, 0.21, 0.195, 0.07, 0.011, 0.004])
CHARACTERS_PER_SECOND = 14.5
LETTERS = "ETAOINSHRDLUCMFWYGPBVKXQJZ"
# Of each letter in English text, in tenths of a percent.
LETTER_SHARES = np.array(
    [120, 91, 81, 77, 73, 70, 63, 59, 60, 43, 40, 29, 27, 26, 23, 21, 21, 20, 18, 15, 11, 7, 2, 1, 1, 1]
)
WORDS = 20_000
NOISE_FRAMES = 1 << 15  # every utterance is a piece of the same noise: a hundred hours are written in minutes
DEV_SECONDS = 60.0


def noise_corpus(folder: Path, hours: float, seed: int = 0) -> Corpus:
    """Writes a corpus with the splits train (so many hours) and dev; 72 MB an hour, in memory that stays flat."""
    random, recipe = np.random.default_rng(seed), FeatureRecipe(name="hw4")
    words = Words(random)
    noise = random.normal(-45, 15, (NOISE_FRAMES, recipe.bins)).clip(-80, 0).astype(np.float16)
    with CorpusWriter(folder, recipe, "noise") as writer:
        for split, wanted in (("train", hours * 3600), ("dev", DEV_SECONDS)):
            number, total = 0, 0.0
            while total < wanted:
                part = random.choice(len(LENGTH_SHARES), p=LENGTH_SHARES)
                seconds = float(random.uniform(LENGTH_EDGES[part], LENGTH_EDGES[part + 1]))
                frames = recipe.frame_count(int(seconds * recipe.sample_rate))
                start = int(random.integers(NOISE_FRAMES - frames))
                writer.add(split, f"{number:06}", words.sentence(seconds), seconds, noise[start : start + frames])
                number, total = number + 1, total + seconds
        return writer.finish()


class Words:
    """Words of random letters: frequent ones are shorter, and their shares in running text follow Zipf's law."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random, ranks = random, np.arange(WORDS)
        letters, shares = LETTER_SHARES / LETTER_SHARES.sum(), 1 / (ranks + 2.7)
        lengths = 1 + random.poisson(1 + 0.5 * np.log1p(ranks))
        self.words = ["".join(random.choice(list(LETTERS), length, p=letters)) for length in lengths]
        self.cumulative: npt.NDArray[np.float64] = (shares / shares.sum()).cumsum()

    def sentence(self, seconds: float) -> str:
        """What is said in so many seconds."""
        characters = max(1, round(seconds * CHARACTERS_PER_SECOND))
        # As many words as characters are more than enough.
        drawn = np.searchsorted(self.cumulative, self.random.random(characters)).clip(max=WORDS - 1)
        return " ".join(self.words[index] for index in drawn)[:characters].strip()
