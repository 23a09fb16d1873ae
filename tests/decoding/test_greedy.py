"""Greedy search equals a loop without a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from tiny import Learned
from torch import Tensor

from trainables.data.corpus import Corpus
from trainables.data.text.tokenizer import BLANK, EOS, PAD, SOS, UNK
from trainables.decoding import greedy
from trainables.decoding.tokens import repeats
from trainables.models.decoder import Decoder

LENGTHS = torch.tensor([40, 9, 25, 1])


def encoded(seed: int) -> tuple[Decoder, Tensor, Tensor]:
    """A decoder that ends some hypotheses early, and encoder states (B, S, D)."""
    model = tiny.model(seed)
    with torch.no_grad():
        model.decoder.norm.bias[:] = 1.0
        model.decoder.output.weight[EOS] = 2.2 / len(model.decoder.norm.bias)  # a logit of about 2.2
        states_BSD, state_lengths_B = model.encoder(torch.randn(4, 40, tiny.BINS), LENGTHS)
    return model.decoder, states_BSD, state_lengths_B


def naive(decoder: Decoder, states_SD: Tensor, limit: int) -> list[int]:
    """Greedy search that decodes the whole prefix again for every token."""
    found: list[int] = []
    while len(found) < limit:
        logits_V = decoder(torch.tensor([[SOS, *found]]), states_SD[None], torch.tensor([len(states_SD)]))[0, -1]
        allowed = [token for token in range(len(logits_V)) if token not in (PAD, SOS, BLANK, UNK)]
        token = max(allowed, key=lambda candidate: logits_V[candidate].item())
        if token == EOS:
            break
        found.append(token)
    return found


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_greedy_equals_a_loop_without_a_cache(seed: int) -> None:
    decoder, states_BSD, lengths_B = encoded(seed)
    limits = [20, 3, 12, 0]
    found = greedy(decoder, states_BSD, lengths_B, torch.tensor(limits))
    rows = zip(states_BSD, lengths_B, limits, strict=True)
    assert found == [naive(decoder, row[:length], limit) for row, length, limit in rows]


def test_a_hypothesis_keeps_its_limit() -> None:
    decoder, states_BSD, lengths_B = encoded(0)
    with torch.no_grad():
        decoder.output.weight[EOS] = 0
        decoder.output.weight[7] = 10 * decoder.norm.bias
    found = greedy(decoder, states_BSD, lengths_B, torch.tensor([30, 1, 17, 0]))
    assert [len(ids) for ids in found] == [30, 1, 17, 0]


def test_hypotheses_may_be_empty() -> None:
    decoder, states_BSD, lengths_B = encoded(0)
    with torch.no_grad():
        decoder.output.weight[:] = 0
        decoder.output.weight[EOS] = 10 * decoder.norm.bias
    assert greedy(decoder, states_BSD, lengths_B, torch.tensor([9] * 4)) == [[], [], [], []]
    assert greedy(decoder, states_BSD, lengths_B, torch.zeros(4, dtype=torch.long)) == [[], [], [], []]


def test_no_token_that_stands_for_no_text_is_said() -> None:
    decoder, states_BSD, lengths_B = encoded(0)
    with torch.no_grad():
        decoder.output.weight[[PAD, UNK, SOS, BLANK]] = 10 * decoder.norm.bias
    found = greedy(decoder, states_BSD, lengths_B, torch.tensor([10] * 4))
    assert not {PAD, UNK, SOS, BLANK, EOS} & {token for ids in found for token in ids}


SPELLED = [8, 9, 10, 9, 8, 11]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([7] * 16, True),
        ([9, 8, *[7] * 16], True),
        ([7] * 15, False),
        ([7] * 15 + [8], False),
        ([5, 6] * 8, True),
        ([5, 6, 7] * 7, False),
        ([5, 6, 7] * 8, True),
        (SPELLED * 7, False),
        (SPELLED * 8, True),
        (list(range(5, 14)) * 8, False),
    ],
)
def test_a_sequence_repeats_after_eight_times_the_same(tokens: list[int], expected: bool) -> None:
    other = [5 + number % 11 for number in range(len(tokens))]
    assert repeats(torch.tensor([tokens, other])).tolist() == [expected, False]


def test_transcripts_of_a_trained_model_do_not_depend_on_the_end_of_repetition(
    learned: Learned, tiny_corpus: Corpus
) -> None:
    split = tiny_corpus.validation_split()
    features = [split.utterance(place) for place in range(len(split))]
    trained, search = learned.recognizer, learned.recognizer.search()
    endless = replace(search, ends_repetition=False)
    assert trained.transcribe(features, search) == trained.transcribe(features, endless) != [""] * len(split)


@torch.no_grad()
def test_an_untrained_model_is_not_followed_to_its_limit() -> None:
    decoder, states_BSD, lengths_B = encoded(0)
    decoder.norm.weight.zero_()  # whatever the input is, the same token is the likeliest
    decoder.output.weight[EOS] = -1.0
    limits = torch.tensor([60, 12, 60, 60])
    endless = greedy(decoder, states_BSD, lengths_B, limits)
    found = greedy(decoder, states_BSD, lengths_B, limits, ends_repetition=True)
    assert [len(row) for row in endless] == limits.tolist()
    assert [len(row) for row in found] == [16, 12, 16, 16]
