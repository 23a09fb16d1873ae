"""Largest values that options, configurations and spaces take: beyond any real use, below what no machine can do.

They refuse a slipped key at once, where the value would be found out by running out of memory, or never.
"""

LARGEST_WIDTH = 2**18  # of any layer
MOST_LAYERS = 1_000  # of one stack
MOST_EPOCHS = 100_000
MOST_TRIALS = 1_000_000
MOST_TOKENS = 1_000_000  # of a vocabulary
MOST_WORKERS = 100_000
MOST_UTTERANCES = 10_000_000  # of a corpus
MOST_SEEDS = 1_000
LONGEST_PIECE = 86_400.0  # seconds of a recording that are transcribed at once
LARGEST_BEAM = 1_000  # hypotheses of an utterance
LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one
