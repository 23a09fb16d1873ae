"""How much work and room a configuration is, known without training it.

Shapes: N items of the training split, B batch, T frames, U tokens, F mel bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.config import Config
from trainables.config import Tokenizer as TokenizerConfig
from trainables.data.augmentation import stretched
from trainables.data.batching import BatchPlan
from trainables.data.corpus import Corpus, Split
from trainables.data.text.token_batches import read_texts
from trainables.data.text.tokenizer import Tokenizer
from trainables.models.shapes import shapes_only
from trainables.models.speech_transformer import make_model

BYTES = 4  # of a weight: parameters and optimiser state are float32, whatever the precision
OPTIMIZER_COPIES = {"adamw": 2, "adam": 2, "sgd": 1}  # tensors of each parameter's size in the optimiser's state


@dataclass(frozen=True)
class Workload:
    """A configuration's epoch.

    Args:
        batches: forward passes of an epoch.
        multiplications: by weights, in one worker's share of one of them.
    """

    batches: int
    multiplications: float


class Workloads:
    """The workloads of configurations on a corpus, whose lengths and token counts are read once.

    Args:
        split: the training split.
        workers: that share each batch.
    """

    def __init__(
        self, corpus: Corpus, split: Split, tokenizer_of: Callable[[TokenizerConfig], Tokenizer], workers: int
    ) -> None:
        self.corpus, self.split, self.tokenizer_of, self.workers = corpus, split, tokenizer_of, workers
        self.tokens, self.frames = cache(self._tokens), cache(self._frames)

    def __call__(self, config: Config) -> Workload:
        tokens_N = self.tokens(config.tokenizer, config.data.text)
        if config.model.kind == "language_model":
            lengths_N, budget = tokens_N, float(config.training.batch_tokens)
        else:
            lengths_N = self.frames(config.data.speed_perturbation)
            budget = config.training.batch_seconds * self.corpus.recipe.frames_per_second
        length, tokens = int(lengths_N.mean()), int(tokens_N.mean())
        vocab_size = self.tokenizer_of(config.tokenizer).vocab_size
        bins = config.features.num_feats or self.corpus.recipe.bins
        of_one = multiplications(config, vocab_size, (1, length, bins), (1, tokens))
        return Workload(BatchPlan(lengths_N, budget).batches, of_one * budget / self.workers / length)

    def _tokens(self, config: TokenizerConfig, text: str | None) -> np.ndarray:
        """Tokens of every text, with EOS."""
        more = read_texts(Path(text)) if text is not None else []
        encoded = self.tokenizer_of(config).encode([*(self.split.texts or []), *more])
        return np.array([len(ids) + 1 for ids in encoded])

    def _frames(self, speed: float) -> np.ndarray:
        """Frames of every utterance at its slowest."""
        return stretched(torch.from_numpy(self.split.frames), 1 - speed).numpy()


def multiplications(config: Config, vocab_size: int, features: tuple[int, int, int], tokens: tuple[int, int]) -> int:
    """Multiplications by weights in a forward pass: each weight once for every place at which it is applied.

    The passes that train are three times as many. Left out are those of attention between states, few where there are
    not many more states than the model is wide, and what is no product: so this compares configurations.

    Args:
        features, tokens: the batch's shapes, (B, T, F) and (B, U); of a language model's only the latter matters.
    """
    total = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal total
        found: Tensor = output[0] if isinstance(module, nn.LSTM) else output
        channels = found.shape[1 if isinstance(module, nn.Conv1d | nn.Conv2d) else -1]
        weights = sum(weight.numel() for weight in module.parameters(recurse=False) if weight.dim() > 1)
        total += weights * found.numel() // channels

    with shapes_only():
        model = make_model(config.model, vocab_size, features[-1])
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.LSTM):
                module.register_forward_hook(count)
        inputs_BU = torch.zeros(tokens, dtype=torch.long)
        if config.model.kind == "language_model":
            model(inputs_BU)
        else:
            model(torch.zeros(features), torch.full(features[:1], features[1]), inputs_BU)
    return total


def checkpoint_bytes(config: Config, parameters: int) -> int:
    """What a checkpoint's tensors take on disk before the last epoch: weights, optimiser state, averages of weights."""
    copies = 1 + OPTIMIZER_COPIES[config.optimizer.name]
    if config.training.ema:
        copies += 2  # the weights that are trained, and their running average
    if config.training.average > 1:
        copies += config.training.average
    return BYTES * copies * parameters
