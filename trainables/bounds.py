"""Largest values of options, configurations and spaces, beyond any real use: a typing mistake is refused at once."""

LARGEST_WIDTH = 2**18  # width of a layer
MOST_LAYERS = 1_000  # layers of an encoder or decoder
MOST_EPOCHS = 100_000
MOST_TRIALS = 1_000_000
MOST_TOKENS = 1_000_000  # tokens of a vocabulary
MOST_WORKERS = 100_000
HIGHEST_PRICE = 1e9  # of a node for an hour
MOST_UTTERANCES = 10_000_000  # utterances of a corpus
MOST_SEEDS = 1_000
LONGEST_PIECE = 86_400.0  # seconds of audio transcribed at once
LONGEST_STUDY = 10_080.0  # minutes of tuning the decoding options of a model
LARGEST_BEAM = 1_000  # hypotheses per utterance
LARGEST_SEED = 2**32 - 1  # the largest that NumPy takes
