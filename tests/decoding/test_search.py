"""Beam search equals exhaustive search, a plain beam search and, with a decoder, teacher forcing."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import Path, Rules, Table, spoken
from torch import Tensor

from trainables.data.text.tokenizer import BLANK, EOS, PAD, SOS, UNK
from trainables.decoding import Hypotheses, beam_search, greedy
from trainables.decoding.scorers import CTCPrefixScorer, DecoderScorer
from trainables.models.decoder import Decoder
from trainables.models.speech_transformer import LanguageModel

PENALTIES = {
    "repeat_penalty": st.sampled_from([1.0, 1.3, 2.0]),
    "length_penalty": st.sampled_from([0.0, 0.6, 1.0, 2.0]),
}


def found(hypotheses: Hypotheses, utterance: int) -> list[tuple[float, Path]]:
    rows = zip(hypotheses.scores_BK[utterance].tolist(), hypotheses.tokens_BKU[utterance].tolist(), strict=True)
    pairs = [(score, spoken(row, score)) for score, row in rows]
    return [(score, path) for score, path in pairs if path is not None]


def assert_same(some: list[tuple[float, Path]], others: list[tuple[float, Path]]) -> None:
    assert [path for _, path in some] == [path for _, path in others]
    assert [score for score, _ in some] == pytest.approx([score for score, _ in others], abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 3),
    limits=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    ending=st.sampled_from([-1.0, 2.0]),
    **PENALTIES,
)
def test_a_wide_beam_finds_what_exhaustive_search_finds(
    seed: int,
    count: int,
    limits: list[int],
    temperature: float,
    ending: float,
    repeat_penalty: float,
    length_penalty: float,
) -> None:
    """Two scorers with different weights; the whole list of best hypotheses in order."""
    one, other = Table(seed, count, len(limits), temperature, ending), Table(seed + 1, count, len(limits))
    rules = Rules(((1.0, one), (0.4, other)), repeat_penalty, length_penalty)
    wide = (count + 1) ** max(limits)
    hypotheses = beam_search(
        rules.tables,
        torch.tensor(limits),
        wide,
        repeat_penalty=repeat_penalty,
        length_penalty=length_penalty,
        exact=wide,
    )
    for utterance, limit in enumerate(limits):
        expected = sorted(rules.exhaustive(utterance, limit), key=lambda item: -item[0])
        assert_same(found(hypotheses, utterance), expected)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), beam=st.integers(1, 4), ending=st.sampled_from([-1.0, 0.0, 2.0]), **PENALTIES)
def test_a_narrow_beam_equals_a_plain_one(
    seed: int, beam: int, ending: float, repeat_penalty: float, length_penalty: float
) -> None:
    """The plain search runs to the largest length of each utterance; ending early changes nothing."""
    limits = [9, 2, 5]
    rules = Rules(((1.0, Table(seed, 4, len(limits), ending=ending)),), repeat_penalty, length_penalty)
    penalties = {"repeat_penalty": repeat_penalty, "length_penalty": length_penalty}
    best = beam_search(rules.tables, torch.tensor(limits), beam, **penalties)
    rules.tables[0][1].paths = None
    all_of_them = beam_search(rules.tables, torch.tensor(limits), beam, **penalties, exact=beam)
    for utterance, limit in enumerate(limits):
        expected = rules.plain_beam(utterance, limit, beam)
        assert_same(found(best, utterance)[:1], expected[:1])
        assert_same(found(all_of_them, utterance), expected)


class Counted(Table):
    steps = 0

    def step(self, tokens_BK: Tensor, parents_BK: Tensor) -> Tensor:
        self.steps += 1
        return super().step(tokens_BK, parents_BK)


def test_the_search_ends_when_nothing_can_overtake() -> None:
    """EOS is almost certain, so longer hypotheses lose, with and without a length penalty."""
    for length_penalty in (0.0, 1.0):
        table = Counted(0, 3, utterances=2, ending=30.0)
        hypotheses = beam_search([(1.0, table)], torch.tensor([50, 40]), 3, length_penalty=length_penalty)
        assert hypotheses.best() == [[], []]
        assert table.steps < 10


def test_a_long_hypothesis_may_overtake_late() -> None:
    """An empty hypothesis has the highest score, a hypothesis of the largest length the highest score per token."""
    table = Table(0, 1, utterances=1)
    for length in range(8):
        table.rows[0, (5,) * length] = torch.tensor([0.0, 0, 0, 0.6, 0, 0.4]).log()
    searched = {
        penalty: beam_search([(1.0, table)], torch.tensor([8]), 2, length_penalty=penalty) for penalty in (0.0,)
    }
    table.paths = None
    searched[3.0] = beam_search([(1.0, table)], torch.tensor([8]), 2, length_penalty=3.0)
    assert searched[0.0].best() == [[]]
    assert searched[0.0].scores_BK[0, 0].item() == pytest.approx(math.log(0.6))
    assert searched[3.0].best() == [[5] * 7]
    assert searched[3.0].scores_BK[0, 0].item() == pytest.approx((7 * math.log(0.4) + math.log(0.6)) / 8**3)


def test_a_hypothesis_without_an_end_is_not_lost() -> None:
    """Without EOS, every hypothesis has its utterance's largest length, which may be 0."""
    limits = [6, 0, 1, 3]
    table = Table(0, 3, utterances=4, ending=-math.inf)
    hypotheses = beam_search([(1.0, table)], torch.tensor(limits), 3, exact=3)
    assert [len(tokens) for tokens in hypotheses.best()] == limits
    assert [len(found(hypotheses, utterance)) for utterance in range(4)] == [3, 1, 3, 3]


def test_no_token_that_stands_for_no_text_is_said() -> None:
    class Special(Table):
        def row(self, utterance: int, path: Path) -> Tensor:
            row_V = super().row(utterance, path).clone()
            row_V[[PAD, UNK, SOS, BLANK]] = 0.0
            return row_V

    table = Special(0, 3, utterances=2)
    hypotheses = beam_search([(1.0, table)], torch.tensor([9, 9]), 4, exact=4)
    assert not {PAD, UNK, SOS, BLANK} & set(hypotheses.tokens_BKU.flatten().tolist())


# With a decoder

LENGTHS = torch.tensor([40, 9, 25, 1])
LIMITS = torch.tensor([12, 7, 9, 4])


def encoded(seed: int) -> tuple[Decoder, Tensor, Tensor, Tensor]:
    """A decoder that ends some hypotheses early, states (B, S, D), their lengths, and CTC log-probabilities."""
    model = tiny.model(seed)
    with torch.no_grad():
        model.decoder.norm.bias[:] = 1.0
        model.decoder.output.weight[EOS] = 2.2 / len(model.decoder.norm.bias)
        model.decoder.output.weight.mul_(3.0)
        states_BSD, state_lengths_B = model.encoder(torch.randn(4, 40, tiny.BINS), LENGTHS)
        return model.decoder, states_BSD, state_lengths_B, model.ctc_head(states_BSD).log_softmax(-1)


class TeacherForced:
    """A decoder scorer without a cache: it decodes the whole prefix of each hypothesis on its own."""

    def __init__(self, decoder: Decoder, states_BSD: Tensor | None = None, lengths_B: Tensor | None = None) -> None:
        self.decoder, self.states_BSD, self.lengths_B = decoder, states_BSD, lengths_B
        self.prefixes_BKU: Tensor | None = None

    def step(self, tokens_BK: Tensor, parents_BK: Tensor) -> Tensor:
        beams = tokens_BK.shape[1]
        if self.prefixes_BKU is None:
            self.prefixes_BKU = tokens_BK[..., None]
        else:
            rows = [row[parents] for row, parents in zip(self.prefixes_BKU, parents_BK, strict=True)]
            self.prefixes_BKU = torch.cat([torch.stack(rows), tokens_BK[..., None]], -1)
        states = None if self.states_BSD is None else self.states_BSD.repeat_interleave(beams, 0)
        lengths = None if self.lengths_B is None else self.lengths_B.repeat_interleave(beams, 0)
        logits_NUV = self.decoder(self.prefixes_BKU.flatten(0, 1), states, lengths)
        return logits_NUV[:, -1].log_softmax(-1).unflatten(0, tokens_BK.shape)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beam", [1, 3, 6])
def test_cached_hypotheses_equal_teacher_forcing(seed: int, beam: int) -> None:
    """Beams share their ancestors' keys and the encoder's, yet each attends to its own prefix only."""
    decoder, states_BSD, lengths_B, _ = encoded(seed)
    state = decoder.start(states_BSD, lengths_B, int(LIMITS.max()))
    cached = beam_search([(1.0, DecoderScorer(decoder, state))], LIMITS, beam, length_penalty=0.7, exact=beam)
    forced = TeacherForced(decoder, states_BSD, lengths_B)
    expected = beam_search([(1.0, forced)], LIMITS, beam, length_penalty=0.7, exact=beam)
    assert torch.equal(cached.tokens_BKU, expected.tokens_BKU)
    torch.testing.assert_close(cached.scores_BK, expected.scores_BK, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_temperature_divides_the_logits() -> None:
    decoder, states_BSD, lengths_B, _ = encoded(0)
    tokens_BK, parents_BK = torch.full((4, 1), SOS), torch.zeros(4, 1, dtype=torch.long)
    scorer = DecoderScorer(decoder, decoder.start(states_BSD, lengths_B, 1), temperature=2.5)
    logits_BUV = decoder(tokens_BK, states_BSD, lengths_B)
    expected = (logits_BUV / 2.5).log_softmax(-1)
    torch.testing.assert_close(scorer.step(tokens_BK, parents_BK), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_language_model_follows_its_hypotheses() -> None:
    """A language model, which has no encoder states, scores together with a decoder that has."""
    decoder, states_BSD, lengths_B, _ = encoded(0)
    torch.manual_seed(1)
    language_model = LanguageModel(tiny.shape(), tiny.VOCABULARY).eval()
    attention = DecoderScorer(decoder, decoder.start(states_BSD, lengths_B, int(LIMITS.max())))
    fluency = DecoderScorer(language_model, language_model.start(None, None, int(LIMITS.max())))
    cached = beam_search([(1.0, attention), (0.7, fluency)], LIMITS, 3, exact=3)
    forced = [(1.0, TeacherForced(decoder, states_BSD, lengths_B)), (0.7, TeacherForced(language_model))]
    expected = beam_search(forced, LIMITS, 3, exact=3)
    assert torch.equal(cached.tokens_BKU, expected.tokens_BKU)
    torch.testing.assert_close(cached.scores_BK, expected.scores_BK, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    decoder, states_BSD, lengths_B, _ = encoded(seed)
    state = decoder.start(states_BSD, lengths_B, int(LIMITS.max()))
    searched = beam_search([(1.0, DecoderScorer(decoder, state, temperature=2.0))], LIMITS, 1)
    assert searched.best() == greedy(decoder, states_BSD, lengths_B, LIMITS)


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_joint_search_with_all_candidates_equals_full_scores(weight: float) -> None:
    """With all tokens as candidates, the CTC scorer equals a scorer of every token."""
    decoder, states_BSD, lengths_B, log_probs_BSV = encoded(0)

    class EveryToken:
        def __init__(self) -> None:
            self.scorer = CTCPrefixScorer(log_probs_BSV, lengths_B)

        def step(self, tokens_BK: Tensor, parents_BK: Tensor) -> Tensor:
            every_BKV = torch.arange(tiny.VOCABULARY).expand(*tokens_BK.shape, -1)
            return self.scorer.step(tokens_BK, parents_BK, every_BKV)

    def attention() -> tuple[float, TeacherForced]:
        return 1 - weight, TeacherForced(decoder, states_BSD, lengths_B)

    full = beam_search([attention(), (weight, EveryToken())], LIMITS, 3, exact=3)
    chosen = beam_search(
        [attention()],
        LIMITS,
        3,
        candidate_scorers=[(weight, CTCPrefixScorer(log_probs_BSV, lengths_B))],
        candidates=tiny.VOCABULARY,
        exact=3,
    )
    assert torch.equal(chosen.tokens_BKU, full.tokens_BKU)
    torch.testing.assert_close(chosen.scores_BK, full.scores_BK, atol=1e-3, rtol=1e-4)
