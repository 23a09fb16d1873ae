"""Names of the files of a model directory (`model_directory.py`). Importing them imports no torch."""

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.model", "model.safetensors"
FEATURES = "features.json"  # of a recogniser
ERRORS = "errors.json"  # errors of the last validation; optional
SCORES = "scores.json"  # what `platform evaluate` last found on splits; optional
CONFIDENCE = "confidence.json"  # calibration of the confidence of words (words.py); optional
