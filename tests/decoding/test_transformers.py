"""Our searches and transformers' `generate` find the same sequences and scores on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables.data.text.tokenizer import EOS, SOS
from trainables.decoding import beam_search, greedy
from trainables.decoding.scorers import DecoderScorer
from trainables.decoding.tokens import SUPPRESSED_TOKENS
from trainables.models.speech2text import from_speech2text, speech2text_shape
from trainables.models.speech_transformer import SpeechTransformer

transformers = pytest.importorskip("transformers", reason="parity with transformers needs it (a test dependency)")

FRAMES, UTTERANCES, TOKENS, BINS = 60, 6, 12, 8
SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "conv_channels": 20,
    "input_feat_per_channel": BINS,
    "decoder_start_token_id": SOS,
    "eos_token_id": EOS,
}


@torch.no_grad()
def models(seed: int) -> tuple[Any, SpeechTransformer]:
    """Their model and ours, with equal weights that give varied hypotheses, some of which end early."""
    torch.manual_seed(seed)
    config = transformers.Speech2TextConfig(**SHAPE)
    theirs = transformers.Speech2TextForConditionalGeneration(config).eval()
    for name, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    theirs.model.decoder.layer_norm.bias[:] = 0.5
    theirs.lm_head.weight[EOS] = 0.35
    ours = SpeechTransformer(speech2text_shape(config), config.vocab_size, BINS).eval()
    ours.load_state_dict(from_speech2text(theirs.state_dict(), ours.state_dict()))
    return theirs, ours


def generate(theirs: Any, features_BTF: torch.Tensor, **options: Any) -> tuple[list[list[int]], list[float]]:
    """Sequences without SOS and EOS, and their scores (none for greedy search)."""
    found = theirs.generate(
        features_BTF,
        do_sample=False,
        max_new_tokens=TOKENS,
        suppress_tokens=SUPPRESSED_TOKENS,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    rows = [row[1:] for row in found.sequences.tolist()]
    scores = found.sequences_scores.tolist() if "sequences_scores" in found else []
    return [row[: row.index(EOS)] if EOS in row else row for row in rows], scores


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("repeat_penalty", [1.0, 1.4])
@pytest.mark.parametrize("beam", [3, 5])
def test_beam_search_equals_theirs(seed: int, length_penalty: float, repeat_penalty: float, beam: int) -> None:
    """All returned hypotheses are equal to an exact search of theirs (`early_stopping="never"`)."""
    theirs, ours = models(seed)
    features_BTF = torch.randn(UTTERANCES, FRAMES, BINS)
    expected, scores = generate(
        theirs,
        features_BTF,
        num_beams=beam,
        num_return_sequences=beam,
        length_penalty=length_penalty,
        repetition_penalty=repeat_penalty,
        early_stopping="never",
    )
    with torch.inference_mode():
        states_BSD, lengths_B = ours.encoder(features_BTF, torch.full((UTTERANCES,), FRAMES))
        scorer = DecoderScorer(ours.decoder, ours.decoder.start(states_BSD, lengths_B, TOKENS))
        found = beam_search(
            [(1.0, scorer)],
            torch.full((UTTERANCES,), TOKENS),
            beam,
            length_penalty=length_penalty,
            repeat_penalty=repeat_penalty,
            exact=beam,
        )
    assert [row[: row.index(EOS)] for row in found.tokens_BKU.flatten(0, 1).tolist()] == expected
    assert found.scores_BK.flatten().tolist() == pytest.approx(scores, abs=1e-4)
    assert len({len(tokens) for tokens in expected}) > 2, "the hypotheses must differ for the test to tell anything"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("repeat_penalty", [1.0, 1.4])
def test_greedy_search_equals_theirs(seed: int, repeat_penalty: float) -> None:
    theirs, ours = models(seed)
    features_BTF = torch.randn(UTTERANCES, FRAMES, BINS)
    expected, _ = generate(theirs, features_BTF, num_beams=1, repetition_penalty=repeat_penalty)
    with torch.inference_mode():
        states_BSD, lengths_B = ours.encoder(features_BTF, torch.full((UTTERANCES,), FRAMES))
    assert greedy(ours.decoder, states_BSD, lengths_B, torch.full((UTTERANCES,), TOKENS), repeat_penalty) == expected
