"""A recogniser: everything between feature frames and text, and the model directory that holds it.

A model directory is four files: `config.json`, `features.json` (recipe and training statistics), `tokenizer.model`
and `model.safetensors`, with `training.json` and `optimizer.safetensors` beside them while training may go on
(checkpoint.py). Nothing in it is ever unpickled.

Shapes: B batch, T frames, S subsampled frames, F mel bins, D model width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor

from trainables.config import Config, parse_config
from trainables.data.batching import Normalizer, in_batches
from trainables.data.features import Recipe
from trainables.data.tokenizer import Tokenizer
from trainables.decoding import ctc_greedy, greedy
from trainables.errors import InputError
from trainables.folders import replaced
from trainables.models.speech_transformer import SpeechTransformer

FORMAT = 2
CONFIG, FEATURES, TOKENIZER, WEIGHTS = FILES = "config.json", "features.json", "tokenizer.model", "model.safetensors"
SPARE_TOKENS = 10  # how far a hypothesis may run past the fastest speech heard in training
SPARE_RATE = 1.25


@dataclass
class Recognizer:
    """A model with what it needs around it.

    Args:
        tokens_per_frame: the fastest speech in the training split, which bounds the length of a hypothesis.
        corpus_hash: the corpus that it was trained on.
    """

    config: Config
    model: SpeechTransformer
    tokenizer: Tokenizer
    recipe: Recipe
    mean: Tensor
    std: Tensor
    tokens_per_frame: float
    corpus_hash: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """The number of parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    def normalizer(self) -> Normalizer:
        return Normalizer(self.config.features, self.mean, self.std, self.device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 where the configuration says so, or leaves it open and the GPU has it."""
        precision = self.config.training.precision
        native = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        enabled = precision == "bf16" or (precision == "auto" and native)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def decode_attention(self, states_BSD: Tensor, state_lengths_B: Tensor, frames_B: Tensor) -> list[str]:
        """Greedy attention decoding of encoder states; `frames_B` are the utterances' input lengths."""
        limit_B = (frames_B * (SPARE_RATE * self.tokens_per_frame)).ceil().long() + SPARE_TOKENS
        return [self.tokenizer.decode(ids) for ids in greedy(self.model.decoder, states_BSD, state_lengths_B, limit_B)]

    def decode_ctc(self, ctc_logits_BSV: Tensor, state_lengths_B: Tensor) -> list[str]:
        """Greedy CTC decoding."""
        return [self.tokenizer.decode(ids) for ids in ctc_greedy(ctc_logits_BSV, state_lengths_B)]

    @torch.no_grad()
    def transcribe(self, features: Sequence[np.ndarray | Tensor], batch_frames: int = 20_000) -> list[str]:
        """Texts of utterances given as (T, F) arrays of this model's recipe, in the order given."""
        self.model.eval()
        normalize = self.normalizer()
        texts = [""] * len(features)
        for indices in in_batches([len(item) for item in features], batch_frames):
            items = [torch.as_tensor(features[index]) for index in indices]
            lengths_B = torch.tensor([len(item) for item in items], device=self.device)
            padded_BTF = torch.nn.utils.rnn.pad_sequence(items, batch_first=True).to(self.device)
            with self.autocast():
                states_BSD, state_lengths_B = self.model.encoder(normalize(padded_BTF, lengths_B), lengths_B)
                found = self.decode_attention(states_BSD, state_lengths_B, lengths_B)
            for index, text in zip(indices, found, strict=True):
                texts[index] = text
        return texts

    def save(self, folder: Path) -> None:
        """Writes the model directory's files into an existing folder."""
        about = {
            "format": FORMAT,
            "active_layers": [self.model.encoder.active_layers, self.model.decoder.active_layers],
            "corpus_hash": self.corpus_hash,
            "parameters": self.parameters,
            "tokens_per_frame": self.tokens_per_frame,
            "config": self.config.model_dump(mode="json"),
        }
        features = {"recipe": self.recipe.model_dump(mode="json"), "mean": self.mean.tolist(), "std": self.std.tolist()}
        (folder / CONFIG).write_text(json.dumps(about, indent=2), encoding="utf-8")
        (folder / FEATURES).write_text(json.dumps(features), encoding="utf-8")
        self.tokenizer.save(folder / TOKENIZER)
        save_model(self.model, str(folder / WEIGHTS))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Recognizer:
        """Reads a model directory.

        Raises:
            InputError: a file is missing, is of another format, or does not fit the others.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"{folder}: not a whole model directory: {', '.join(missing)} missing",
                "Give the folder of a trained model, such as `platform leaderboard` lists.",
            )
        about = read_json(folder / CONFIG, "format")
        if about["format"] != FORMAT:
            raise InputError(
                f"{folder / CONFIG}: model format {about['format']!r}, but this version reads {FORMAT}",
                "Train the model again, or use the version that wrote it.",
            )
        about = read_json(folder / CONFIG, "config", "corpus_hash", "tokens_per_frame")
        recipe, mean, std = _read_features(folder / FEATURES)
        config = parse_config(about["config"], str(folder / CONFIG))
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = SpeechTransformer(config.model, tokenizer.vocab_size, config.features.num_feats or len(mean))
        try:
            load_model(model, str(folder / WEIGHTS))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise InputError(f"{folder / WEIGHTS}: {error}", "The file is damaged or of another model.") from None
        # A checkpoint of progressive training may leave out layers that are not trained yet.
        model.encoder.active_layers, model.decoder.active_layers = about.get("active_layers", [None, None])
        return cls(
            config,
            model.to(device).eval(),
            tokenizer,
            recipe,
            mean,
            std,
            about["tokens_per_frame"],
            about["corpus_hash"],
        )


def copy_model(checkpoint: Path, folder: Path) -> Path:
    """Copies a checkpoint's model directory, without what only training needs, to `folder`; returns it.

    A folder of an earlier model is replaced once the copy is whole.
    """
    with replaced(folder) as partial:
        for name in FILES:
            shutil.copy2(checkpoint / name, partial / name)
    return folder


def _read_features(path: Path) -> tuple[Recipe, Tensor, Tensor]:
    """The feature recipe, and mean and standard deviation (F,)."""
    tree = read_json(path, "recipe", "mean", "std")
    try:
        return Recipe.model_validate(tree["recipe"]), torch.tensor(tree["mean"]), torch.tensor(tree["std"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}", "Use the version that wrote it, or another copy.") from None


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A mapping that has these keys.

    Raises:
        InputError: it has not, or the file is no mapping in JSON.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in dict(tree)]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}", "The file is damaged; use another copy.") from None
    if missing:
        raise InputError(f"{path}: without {', '.join(missing)}", "The file is damaged; use another copy.")
    return tree
