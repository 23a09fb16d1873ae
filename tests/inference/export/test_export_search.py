"""The exported script's searches in numpy find the hypotheses and scores of the searches in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from trainables.config.tree import Decoding
from trainables.data.text.tokenizer import BLANK, EOS, SOS
from trainables.decoding import Search
from trainables.decoding.search import Hypothesis
from trainables.decoding.tokens import SUPPRESSED_TOKENS
from trainables.inference.export import onnx_transcribe
from trainables.models.speech_transformer import SpeechTransformer, States

SEARCHES: list[dict[str, Any]] = [
    {"method": "beam"},
    {"method": "beam", "beam": 1, "length_penalty": 1.0},
    {"method": "beam", "beam": 12, "temperature": 3.0, "length_penalty": 0.5, "repeat_penalty": 1.4},
    {"method": "joint"},
    {"method": "joint", "beam": 1, "candidates": 1},
    {"method": "joint", "beam": 8, "ctc_weight": 1.0, "candidates": 3, "length_penalty": 2.0},
    {"method": "joint", "ctc_weight": 0.7, "candidates": 100, "repeat_penalty": 1.2, "temperature": 0.5},
    {"method": "joint", "ctc_weight": 0.0},
    {"method": "ctc_beam"},
    {"method": "ctc_beam", "beam": 1},
    {"method": "ctc_beam", "beam": 12},
]


class WholeHypotheses:
    """Logits from a torch decoder over whole hypotheses, without a cache; for a search by `onnx_transcribe`."""

    def __init__(self, model: SpeechTransformer, encoded: States) -> None:
        self.decoder, self.encoded = model.decoder, encoded
        self.hypotheses: list[list[int]] = [[]]

    @torch.inference_mode()
    def step(self, parents: list[int], tokens: list[int]) -> np.ndarray:
        """Logits of the next token, (K, V); see `onnx_transcribe.Decoder.step`."""
        self.hypotheses = [[*self.hypotheses[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        states_BSD, lengths_B = (part.repeat_interleave(len(parents), 0) for part in self.encoded)
        logits_KUV = self.decoder(torch.tensor(self.hypotheses), states_BSD, lengths_B)
        return logits_KUV[:, -1].double().numpy()


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_finds_the_same_hypotheses_with_the_same_scores(search: dict[str, Any]) -> None:
    decoding = Decoding.model_validate(search)
    about = {
        "config": {"decoding": decoding.model_dump()},
        "start": SOS, "end": EOS, "blank": BLANK, "suppress_tokens": SUPPRESSED_TOKENS,
    }  # fmt: skip
    found, expected = list[onnx_transcribe.Hypothesis](), list[Hypothesis]()
    for seed, (states, longest) in enumerate([(1, 3), (4, 1), (9, 8), (30, 12), (30, 25)]):
        model = sharpened(seed)
        encoded = States(torch.randn(1, states, model.encoder.config.d_model), torch.tensor([states]))
        ctc_logits_SV = model.ctc_logits(encoded)[0][0].detach().numpy()
        exact = min(decoding.beam, 3)
        expected += Search(decoding).nbest(model, encoded, torch.tensor([longest]), exact)[0]
        if decoding.method == "ctc_beam":
            suppressed = [EOS, *(token for token in SUPPRESSED_TOKENS if token != BLANK)]
            log_probs_SV = onnx_transcribe.log_softmax(ctc_logits_SV)
            found += onnx_transcribe.ctc_beam(log_probs_SV, suppressed, BLANK, decoding.beam)[:exact]
            continue
        joint = decoding.method == "joint" and decoding.ctc_weight
        ctc = onnx_transcribe.CTCPrefixes(onnx_transcribe.log_softmax(ctc_logits_SV), about) if joint else None
        found += onnx_transcribe.beam_search(WholeHypotheses(model, encoded), ctc, about, longest, exact)[:exact]
    assert [tokens for tokens, _ in found] == [hypothesis.tokens for hypothesis in expected]
    assert len({len(tokens) for tokens, _ in found}) > 1
    np.testing.assert_allclose([score for _, score in found], [each.score for each in expected], rtol=1e-4, atol=1e-4)


def sharpened(seed: int) -> SpeechTransformer:
    """A random model whose distributions are neither flat nor certain, so that hypotheses differ in length."""
    model = tiny.model(seed)
    with torch.no_grad():
        model.decoder.output.weight.mul_(3)
        model.ctc_head.weight.mul_(3)
    return model


def test_prefixes_of_ctc_are_sums_over_alignments() -> None:
    """Over three states: transcripts that begin with either token, and the empty one, have probability 1 together."""
    logits_SV = np.random.default_rng(0).normal(0, 2, (3, 4))
    logits_SV[:, 3] = -1e3  # the end token is at no state
    p_SV = np.exp(onnx_transcribe.log_softmax(logits_SV))
    ctc = onnx_transcribe.CTCPrefixes(onnx_transcribe.log_softmax(logits_SV), {"blank": 0, "end": 3, "start": 2})
    assert np.exp(ctc.scores(np.array([[1, 2, 3]]))).sum() == pytest.approx(1)
    ctc.extend([0], [1])
    assert np.exp(ctc.prefixes(np.array([[1]]))).item() == pytest.approx(p_SV[0, 1] * p_SV[1, 0] * p_SV[2, 1])
    alignments = ([1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1])
    alone = sum(np.prod(p_SV[range(3), alignment]) for alignment in alignments)
    assert np.exp(ctc.prefix_K[0] + ctc.scores(np.array([[3]])).item()) == pytest.approx(alone)
