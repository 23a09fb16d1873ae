"""Made-up examples, for tests of what draws and keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from trainables.evaluation.examples import Attention, Example, Examples, most_frequent
from trainables.evaluation.metrics import align_characters, align_words
from trainables.evaluation.utterance_errors import UtteranceErrors

# Reference and hypothesis: markup, what matplotlib would set as mathematics, other scripts, nothing at all.
PAIRS = [
    ("THE CAT SAT", "THE BAT HAS SAT"),
    ("<b>BOLD & BRAVE</b>", "<script>alert('x')</script>"),
    ("COSTS $5 OR $6", "COSTS $5"),
    ("", "A"),
    ("A", ""),
    ("ÉTÉ 東京", "ETE 東 京"),
    ("ONE TWO THREE FOUR " * 30, "ONE TWO THREE TEN " * 30),
]


def attention(tokens: Sequence[str], states: int, layers: int = 2, heads: int = 2) -> Attention:
    """Weights drawn at random, for an utterance of these tokens."""
    generator = torch.Generator().manual_seed(0)
    count = len(tokens) + 1
    to_tokens = torch.rand(layers, heads, count, count, generator=generator).tril()
    to_states = torch.rand(layers, heads, count, states, generator=generator)
    return Attention(
        r"utterance-$\wrong$",
        ["<sos>", *tokens],
        [*tokens, "<eos>"],
        0.04,
        to_tokens / to_tokens.sum(-1, keepdim=True),
        to_states / to_states.sum(-1, keepdim=True),
    )


def editor_attention(positions: Sequence[tuple[str, str]], audio: int) -> Attention:
    """Weights drawn at random, for text positions of a draft and what is written there."""
    inputs, targets = zip(*positions, strict=True)
    weights = torch.rand(2, 2, len(inputs), len(inputs) + audio, generator=torch.Generator().manual_seed(0))
    weights /= weights.sum(-1, keepdim=True)
    split = weights[..., : len(inputs)], weights[..., len(inputs) :]
    return Attention("utterance", [*inputs], [*targets], 0.2, *split, edits=True)


def examples(
    pairs: Sequence[tuple[str, str]] = PAIRS, epoch: int = 2, drafts: Sequence[str | None] | None = None
) -> Examples:
    references, hypotheses = [one for one, _ in pairs], [other for _, other in pairs]
    rows = [
        Example(f"{number:03}<i>", 1.5, reference, hypothesis, sum(pair.operation != "equal" for pair in pairs), draft)
        for number, (reference, hypothesis, pairs, draft) in enumerate(
            zip(
                references,
                hypotheses,
                align_characters(references, hypotheses),
                drafts or [None] * len(pairs),
                strict=True,
            )
        )
    ]
    tokens = ["$", "A", " ", "京", "<unk>"]
    errors = UtteranceErrors.of("dev", epoch, [row.id for row in rows], references, hypotheses)
    return Examples(
        epoch, "dev", rows, most_frequent(align_words(references, hypotheses)), attention(tokens, 9), errors
    )


def checkpoint(folder: Path, epoch: int = 2) -> str:
    """A folder that has examples in it; returns its path."""
    folder.mkdir(parents=True)
    examples(epoch=epoch).save(folder)
    return str(folder)
