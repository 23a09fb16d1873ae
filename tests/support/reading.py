"""A space with everything, and what is wrong with one that is not."""

from __future__ import annotations

import pytest

from search_spaces.reader import parse_space
from trainables.errors import InputError

GOOD = """
base:
  tokenizer: {kind: bpe, vocab_size: 500}
  model: {d_model: 64, heads: 2}
  optimizer: {lr: 1e-3, betas: [0.9, 0.95]}
vary:
  tokenizer.vocab_size: {choice: [1000, 5000], when: {tokenizer.kind: [bpe, unigram]}}
  tokenizer.kind: {choice: [char, bpe, unigram]}
  model.encoder_layers: {int: [2, 8], step: 2}
  model.conv_channels: {choice: [32, 64], when: {model.encoder_layers: 2, tokenizer.kind: char}}
  optimizer.lr: {log: [5e-4, 3.0E-3]}
  model.dropout: {float: [0, .2], step: 5e-2}
  loss.ctc_weight: {float: [0.1, 0.5]}
budget: 3e7
epochs: 25
asha: {grace: 3, reduction: 2}
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(InputError) as error:
        parse_space(text, "my.yaml")
    assert error.value.problem.startswith("my.yaml")
    return error.value.problem.splitlines()[1:]
