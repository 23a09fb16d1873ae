"""Transcribes WAV files with an exported recogniser: python transcribe.py FILE.wav ...

An example to copy from, beside the model that `platform export --format transformers` wrote. It needs torch,
transformers, sentencepiece (and kaldi-native-fbank, if `recognizer.json` says `"name": "kaldi"`); the features are
computed in `common.py`. A file is transcribed as one utterance. How `generate` searches is said in
`generation_config.json`.

Shapes: T frames, F mel bins.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

if __package__:  # not exported
    from trainables.inference.export.common import features_of, read_wav, text_of
else:
    from common import features_of, read_wav, text_of  # type: ignore[import-not-found, no-redef]

Floats = npt.NDArray[np.floating]
SMALLEST_STD = 1e-2  # bins with a smaller deviation count as constant
WINDOW, FIRST_WINDOW = 600, 100  # frames whose mean is subtracted (`sliding`), and in the beginning


def sliding_means(x_TF: Floats) -> Floats:
    """Mean of each frame and the `WINDOW` - 1 before it, (T, F); the first frames take those to `FIRST_WINDOW`."""
    place_T = np.arange(1, len(x_TF) + 1)
    start_T, end_T = np.maximum(place_T - WINDOW, 0), np.minimum(np.maximum(place_T, FIRST_WINDOW), len(x_TF))
    sums_PF = np.concatenate([np.zeros_like(x_TF[:1]), x_TF.cumsum(axis=0)])
    means_TF: Floats = (sums_PF[end_T] - sums_PF[start_T]) / (end_T - start_T)[:, None]
    return means_TF


class Recognizer:
    """An exported recogniser."""

    def __init__(self, folder: Path) -> None:
        import sentencepiece
        from transformers import Speech2TextForConditionalGeneration
        from transformers.utils import logging

        self.about = json.loads((folder / "recognizer.json").read_text(encoding="utf-8"))
        logging.disable_progress_bar()
        self.model = Speech2TextForConditionalGeneration.from_pretrained(folder).eval()
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def normalized(self, features_TF: Floats) -> Floats:
        """Features (T, F) as the model reads them."""
        config = self.about["config"]["features"]
        bins = config["num_feats"] or self.about["recipe"]["bins"]
        x_TF = features_TF[:, :bins].astype(np.float64)
        if config["dynamic_range"] is not None:
            decibel = 1.0 if self.about["recipe"]["name"] == "hw4" else math.log(10) / 10
            x_TF = np.maximum(x_TF, x_TF.max() - config["dynamic_range"] * decibel)
        if config["normalization"] in ("global_mvn", "sliding"):
            mean_F, std_F = np.array(self.about["mean"])[:bins], np.array(self.about["std"])[:bins]
            x_TF = (x_TF - mean_F) / np.maximum(std_F, SMALLEST_STD)
            return x_TF - sliding_means(x_TF) if config["normalization"] == "sliding" else x_TF
        if config["normalization"] == "cepstral":
            return (x_TF - x_TF.mean(axis=0)) / np.maximum(x_TF.std(axis=0), SMALLEST_STD)
        return x_TF

    def transcribe(self, features_TF: Floats) -> str:
        """Text of log-mel features (T, F)."""
        import torch

        longest = math.ceil(len(features_TF) * self.about["tokens_per_frame"]) + self.about["spare_tokens"]
        inputs_1TF = torch.tensor(self.normalized(features_TF)[None], dtype=torch.float32)
        with torch.inference_mode():
            (tokens,) = self.model.generate(inputs_1TF, max_new_tokens=longest).tolist()
        return self.text(tokens)

    def text(self, tokens: list[int]) -> str:
        """Text that a sequence of tokens, with the start and end tokens, stands for."""
        special = {0, self.about["start"], self.about["end"]}  # 0 pads
        return str(text_of([one for one in tokens if one not in special], self.tokenizer, self.about))


def main(paths: list[str]) -> None:
    """Prints each file's name and text."""
    recognizer = Recognizer(Path(__file__).parent)
    for path in paths:
        print(path, recognizer.transcribe(features_of(read_wav(path), recognizer.about["recipe"])), sep="\t")


if __name__ == "__main__":
    main(sys.argv[1:])
