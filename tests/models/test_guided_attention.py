"""Guided attention: its formula, padding, parts of a batch, and what it does to a training."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from batches import make_batch
from hypothesis import given
from hypothesis import strategies as st

from trainables.data.corpus import Corpus
from trainables.models.losses import GUIDE_WIDTH, stray_attention
from trainables.training.loop import Metrics, train

A, B = 5, 6


def by_hand(weights_US: torch.Tensor) -> float:
    """The sum over tokens and states of one head's weights, which have no padding."""
    tokens, states = weights_US.shape
    return sum(
        weights_US[u, s].item() * (1 - math.exp(-((u / tokens - s / states) ** 2) / (2 * GUIDE_WIDTH**2)))
        for u in range(tokens)
        for s in range(states)
    )


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 3))
def test_each_utterance_adds_its_own_whatever_the_padding(lengths: list[tuple[int, int]], more: int) -> None:
    """The mean over heads; a token's share is between 0 and 1."""
    torch.manual_seed(0)
    batch = make_batch([[A] * tokens for tokens, _ in lengths])
    states = [count for _, count in lengths]
    weights_BHUS = torch.zeros(len(lengths), 2, batch.targets_BU.shape[1], max(states) + more)
    for row, count in enumerate(states):
        weights_BHUS[row, ..., :count] = torch.randn(2, weights_BHUS.shape[2], count).softmax(-1)
    expected = [by_hand(weights_BHUS[row].mean(0)[: tokens + 1, :count]) for row, (tokens, count) in enumerate(lengths)]
    found = stray_attention(weights_BHUS, torch.tensor(states), batch).item()
    assert found == pytest.approx(sum(expected), rel=1e-4, abs=1e-6)
    assert 0 <= found <= batch.target_lengths_B.sum()


def test_a_filler_does_not_count() -> None:
    batch = make_batch([[A, B], [B]], [1, 0])
    weights_BHUS = torch.randn(2, 1, 3, 4).softmax(-1).requires_grad_()
    stray_attention(weights_BHUS, torch.tensor([4, 4]), batch).backward()
    assert weights_BHUS.grad is not None and weights_BHUS.grad[0].any() and not weights_BHUS.grad[1].any()


def test_the_diagonal_costs_least() -> None:
    batch, states = make_batch([[A] * 7]), torch.tensor([8])
    diagonal_US = torch.eye(8)
    found = [stray_attention(each[None, None], states, batch).item() for each in (diagonal_US, diagonal_US.flip(1))]
    assert found[0] == 0 < 4 < found[1]


def test_the_weights_are_those_of_the_last_layer() -> None:
    """Asking for them changes nothing else."""
    model = tiny.model(0).eval()
    features_BTF, lengths_B, tokens_BU = torch.randn(2, 30, 8), torch.tensor([30, 17]), torch.tensor([[2, 5], [2, 6]])
    plain = model(features_BTF, lengths_B, tokens_BU)
    found = model(features_BTF, lengths_B, tokens_BU, with_attention=True)
    assert plain.attention_BHUS is None
    assert torch.equal(plain.logits_BUV, found.logits_BUV) and torch.equal(plain.ctc_logits_BSV, found.ctc_logits_BSV)
    torch.testing.assert_close(found.attention_BHUS.sum(-1), torch.ones(found.attention_BHUS.shape[:3]))
    assert not found.attention_BHUS[1, ..., int(found.state_lengths_B[1]) :].any()


def test_a_training_is_guided(tiny_corpus: Corpus) -> None:
    """The decoder's attention is nearer to the diagonal, and the share is reported."""
    rows = dict[float, Metrics]()
    for weight in (1e-6, 3.0):
        config = tiny.config({"loss.attention_weight": weight, "training.epochs": 12, "optimizer.lr": 3e-3})
        train(config, tiny_corpus, lambda metrics, save, weight=weight: rows.update({weight: metrics}))
    assert 0 < rows[3.0]["stray_attention"] < 0.7 * rows[1e-6]["stray_attention"] < 1
