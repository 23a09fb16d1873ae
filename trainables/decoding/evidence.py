"""Evidence of words: how sure the heads of a model are of the tokens of a text.

Shapes: B utterances, S states with CTC logits, U tokens, V vocabulary, E heads (CTC, and the decoder if there is one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainables.data.text.tokenizer import EOS, SOS
from trainables.decoding.alignment import Span
from trainables.models.speech_transformer import Encoded, SpeechModel, SpeechTransformer

LEAST = math.log(1e-6)  # log-probability that stands for all smaller ones


def heads(model: SpeechModel) -> tuple[str, ...]:
    """Names of the heads that score the words of a model: `ctc`, and `decoder` if there is one."""
    return ("ctc", "decoder") if isinstance(model, SpeechTransformer) else ("ctc",)


@torch.inference_mode()
def word_evidence(
    model: SpeechModel, encoded: Encoded, ctc_logits_BSV: Tensor, tokens: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]], places: Sequence[Sequence[tuple[int, int]]],
) -> list[list[list[float]]]:  # fmt: skip
    """Evidence of the words of each text: one number of each head, for each word.

    It is the lowest log-probability of the word's tokens: by the CTC head, where a token's is the highest within its
    span, and, in an encoder-decoder, by the decoder after the tokens before.

    Args:
        tokens: tokens of each text.
        spans: states of each token (`ctc_align`).
        places: indices of the first and the last token of each word.
    """
    device = ctc_logits_BSV.device
    tokens_BU = pad_sequence([torch.tensor([*row, EOS]) for row in tokens], batch_first=True).to(device)
    found = [_by_ctc(ctc_logits_BSV, tokens_BU, spans)]
    if isinstance(model, SpeechTransformer):
        found.append(_by_decoder(model, encoded, tokens_BU))
    scores_BUE = torch.stack(found, -1).clamp(min=LEAST).cpu()
    return [
        [scores_UE[first : last + 1].amin(0).tolist() for first, last in row]
        for scores_UE, row in zip(scores_BUE, places, strict=True)
    ]


def _by_ctc(ctc_logits_BSV: Tensor, tokens_BU: Tensor, spans: Sequence[Sequence[Span]]) -> Tensor:
    """Highest log-probability of each token within its span, (B, U); padding has any value."""
    scores_BSV = ctc_logits_BSV.float()
    index_BSU = tokens_BU[:, None].expand(-1, scores_BSV.shape[1], -1)
    scores_BSU = scores_BSV.gather(-1, index_BSU) - scores_BSV.logsumexp(-1, keepdim=True)
    ends_BU2 = pad_sequence([torch.tensor([*row, (0.0, 0.0)]) for row in spans], batch_first=True).to(scores_BSU)
    first_B1U, behind_B1U = ends_BU2[:, None, :, 0].floor(), ends_BU2[:, None, :, 1].ceil()
    state_S1 = torch.arange(scores_BSU.shape[1], device=scores_BSU.device)[:, None]
    inside_BSU = (state_S1 >= first_B1U) & (state_S1 < behind_B1U)
    return scores_BSU.masked_fill(~inside_BSU, -torch.inf).amax(1)


def _by_decoder(model: SpeechTransformer, encoded: tuple[Tensor, Tensor], tokens_BU: Tensor) -> Tensor:
    """Log-probability of each token after those before it, (B, U)."""
    inputs_BU = torch.nn.functional.pad(tokens_BU[:, :-1], (1, 0), value=SOS)
    logits_BUV = model.decoder(inputs_BU, *encoded).float()
    return logits_BUV.gather(-1, tokens_BU[..., None])[..., 0] - logits_BUV.logsumexp(-1)
