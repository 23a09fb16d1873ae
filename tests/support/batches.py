"""Batches of transcripts without audio, for losses."""

from __future__ import annotations

import torch

from trainables.data.batching import Batch
from trainables.data.text.tokenizer import EOS, PAD, SOS


def make_batch(transcripts: list[list[int]], weights: list[float] | None = None) -> Batch:
    """Tokens of each transcript, without EOS; weights of utterances, 1 by default."""
    longest = max(map(len, transcripts))
    padded = [[*ids, EOS, *[PAD] * (longest - len(ids))] for ids in transcripts]
    return Batch(
        features_BTF=torch.zeros(0),
        lengths_B=torch.zeros(0),
        inputs_BU=torch.tensor([[SOS, *row[:-1]] for row in padded]),
        targets_BU=torch.tensor(padded),
        target_lengths_B=torch.tensor([len(ids) + 1 for ids in transcripts]),
        weights_B=torch.tensor(weights or [1.0] * len(transcripts), dtype=torch.float32),
    )
