"""Names of the files that a checkpoint has beside those of its model directory. Importing them imports no torch."""

TRAINING = "training.json"  # the metrics of each finished epoch; a folder without it is no checkpoint
OPTIMIZER = "optimizer.safetensors"
AVERAGES = "averages.safetensors"  # only where the trained weights differ from the validated ones
RANDOM = "random.safetensors"  # only in the middle of an epoch
TRAINING_FILES = (TRAINING, OPTIMIZER, AVERAGES, RANDOM)  # in the order in which they are removed
