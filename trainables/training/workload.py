"""Amount of computation in an epoch of a configuration, computed without training.

Shapes: N items of the training split, B batch, T frames, U tokens, F mel bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trainables.config.tree import PASS_SECONDS, PASS_TOKENS, Config
from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.augmentation import possible_lengths
from trainables.data.batch_plan import BatchPlan, batches_per_update
from trainables.data.corpus import Corpus, Split
from trainables.data.text.token_batches import read_texts
from trainables.data.text.tokenizer import Tokenizer, Vocabulary
from trainables.data.text.tokens import tokens_of
from trainables.models.editing.editor import attend_to_all
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.speech_transformer import LanguageModel, make_model
from trainables.shapes import shapes_only


@dataclass(frozen=True)
class Workload:
    """Amount of computation in one epoch of a configuration.

    Args:
        updates: number of optimizer updates.
        flops: floating-point operations of the forward passes of one update on one worker.
    """

    config: Config
    updates: int
    flops: float


class Workloads:
    """Computes the workloads of configurations on a corpus; texts are encoded once for each tokenizer.

    Args:
        split: the training split.
        workers: number of workers that share each update.
    """

    def __init__(
        self, corpus: Corpus, split: Split, tokenizer_of: Callable[[TokenizerConfig], Tokenizer], workers: int
    ) -> None:
        self.folder, self.recipe, self.split = corpus.path, corpus.recipe, split
        self.tokenizer_of, self.workers = tokenizer_of, workers
        self.token_counts = cache(self._token_counts)

    def __call__(self, config: Config) -> Workload:
        tokens_N = self.token_counts(config.tokenizer, config.data.text)
        if config.model.is_recogniser:
            lengths_N, speed = self.split.frames, config.data.speed_perturbation
            rate = self.recipe.frames_per_second
            budget, small = config.training.update_seconds * rate, PASS_SECONDS * rate
        else:
            lengths_N, speed, budget, small = tokens_N, 0.0, float(config.training.update_tokens), PASS_TOKENS
        batches = batches_per_update(lengths_N, budget, small)
        plan = BatchPlan(lengths_N, budget / batches, expected=possible_lengths(lengths_N, speed))
        length, tokens = int(lengths_N.mean()), int(tokens_N.mean())
        vocabulary = self.tokenizer_of(config.tokenizer).vocabulary
        bins = config.features.num_feats or self.recipe.bins
        of_one = forward_flops(config, vocabulary, (1, length, bins), (1, tokens))
        return Workload(config, math.ceil(plan.batches / batches), of_one * budget / self.workers / length)

    def _token_counts(self, config: TokenizerConfig, text: str | None) -> np.ndarray:
        """Number of tokens of each training text, EOS included, (N,)."""
        more = read_texts(Path(text)) if text is not None else []
        return tokens_of([*(self.split.texts or []), *more], self.tokenizer_of(config), self.folder).counts_N + 1


def forward_flops(
    config: Config, vocabulary: Vocabulary, features: tuple[int, int, int], tokens: tuple[int, int]
) -> int:
    """Floating-point operations of a forward pass, two for each multiply-add, counted without allocating memory.

    Args:
        features: shape of the features (B, T, F), which a language model ignores.
        tokens: shape of the tokens (B, U), EOS included; a transcript editor edits as many without EOS.
    """
    with shapes_only(), FlopCounterMode(display=False) as counter:
        model = make_model(config.model, vocabulary, features[-1])
        inputs_BU, frames_B = torch.zeros(tokens, dtype=torch.long), torch.full(features[:1], features[1])
        match model:
            case LanguageModel():
                model(inputs_BU)
            case TranscriptEditor():
                _edit(model, torch.zeros(features), frames_B, tokens[1] - 1)
            case _:
                model(torch.zeros(features), frames_B, inputs_BU)
    return counter.get_total_flops()


def _edit(model: TranscriptEditor, features_BTF: Tensor, frames_B: Tensor, tokens: int) -> None:
    """One editing step of a draft of `tokens` tokens per utterance, with the items of the flat batch as rows.

    A model without values drafts nothing, and flattens nothing. As rows, the items take as many operations.
    """
    draft = model.encode(features_BTF, frames_B)
    padded_BAD, _ = model.projector(draft.states, draft.lengths_B)
    states, factor = draft.states[0].shape[1], model.projector.factor
    audio = states // factor if model.projector.drop_remainder else math.ceil(states / factor)
    text = max(2 * tokens + 1, model.config.slots.minimum)  # tokens, and a slot around each
    x_BLD = padded_BAD.new_zeros(len(frames_B), audio + text, padded_BAD.shape[2])
    y_BLD = model.editor.run(x_BLD, torch.arange(audio + text), attend_to_all)
    model.editor.logits(y_BLD[:, audio:])
