"""The training loss: label-smoothed cross-entropy on the decoder, weighted CTC on the encoder, guided attention.

All are sums, to be divided by the number of tokens in the update (of all workers and accumulated batches). So the
gradient does not depend on how an update is split into batches.

Shapes: B batch, H heads, S encoder states (subsampled frames), U tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config.tree import Loss
from trainables.data.batching import Batch
from trainables.data.text.tokenizer import BLANK, PAD

GUIDE_WIDTH = 0.25  # of the diagonal, as a share of the utterance


@dataclass
class LossSums:
    """Sums over a batch: the loss terms, target tokens, and utterances that CTC cannot align.

    Args:
        stray: attention far from the diagonal; 0 where it was not asked for.
    """

    cross_entropy: Tensor
    ctc: Tensor
    tokens: Tensor
    infeasible: Tensor
    stray: Tensor


class CTCLengths(NamedTuple):
    """Lengths of the utterances of a batch, for CTC.

    Attributes:
        states, tokens: encoder states, and tokens of the transcript without EOS: lists on the CPU, or tensors.
        infeasible_B: 1 for each that CTC cannot align, else 0, on the device.
    """

    states: list[int] | Tensor
    tokens: list[int] | Tensor
    infeasible_B: Tensor


def loss_sums(
    config: Loss,
    logits_BUV: Tensor,
    ctc_logits_BSV: Tensor,
    state_lengths_B: Tensor,
    batch: Batch,
    known: CTCLengths | None = None,
    attention_BHUS: Tensor | None = None,
) -> LossSums:
    """Cross-entropy against the target tokens (EOS included) and CTC against the transcript (EOS excluded).

    A transcript with more tokens (and blanks between repeated tokens) than the utterance has states has no CTC
    alignment: it adds 0 to the CTC sum and 1 to `infeasible`.

    Args:
        known: the lengths of states and transcripts, where they are known before; None: CTC copies them from the
            device, and the CPU waits until the device has got there.
        attention_BHUS: weights of the attention that is guided; None: none is.
    """
    sums = cross_entropy_sums(config.label_smoothing, logits_BUV, batch.targets_BU, batch.weights_B)
    if known is None:
        transcript_lengths_B = batch.target_lengths_B - 1
        infeasible_B = ctc_frames_needed(batch.targets_BU, transcript_lengths_B) > state_lengths_B
        known = CTCLengths(state_lengths_B, transcript_lengths_B, infeasible_B.float())
    states, tokens = cast(Any, known[:2])  # torch's stubs know of tensors alone
    ctc_B = F.ctc_loss(
        ctc_logits_BSV.float().log_softmax(-1).transpose(0, 1),
        batch.targets_BU,
        states,
        tokens,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    sums = replace(sums, ctc=ctc_B @ batch.weights_B, infeasible=known.infeasible_B @ batch.weights_B)
    if attention_BHUS is None:
        return sums
    return replace(sums, stray=stray_attention(attention_BHUS, state_lengths_B, batch))


def stray_attention(attention_BHUS: Tensor, state_lengths_B: Tensor, batch: Batch) -> Tensor:
    """How much attention lies far from the diagonal: a share (0 to 1) for each target token, summed over a batch.

    The share of token u, of an utterance with n tokens (EOS included) and m states, is the sum over its states s of
    A(u, s) (1 - exp(-(u/n - s/m)^2 / (2 g^2))), A(u, s) being the mean of the heads' weights: guided attention
    (Tachibana et al., 2018, arXiv 1710.08969, section 4.1; there g is 0.2 and the loss a mean, here g is GUIDE_WIDTH).

    Args:
        attention_BHUS: weights, 0 at states past an utterance's own.
        state_lengths_B: number of states of each utterance.
        batch: tokens that pad count nothing, and utterances by their weights.
    """
    token_U, state_S = (torch.arange(count, device=attention_BHUS.device) for count in attention_BHUS.shape[2:])
    tokens_BU, states_BS = (
        place[None] / lengths_B.clamp(min=1)[:, None]
        for place, lengths_B in ((token_U, batch.target_lengths_B), (state_S, state_lengths_B))
    )
    distance_BUS = tokens_BU[:, :, None] - states_BS[:, None]
    stray_BUS = 1 - torch.exp(-distance_BUS.square() / (2 * GUIDE_WIDTH**2))
    weights_BU = batch.weights_B[:, None] * (batch.targets_BU != PAD)
    return ((attention_BHUS.mean(1) * stray_BUS).sum(-1) * weights_BU).sum()


def cross_entropy_sums(label_smoothing: float, logits_BUV: Tensor, targets_BU: Tensor, weights_B: Tensor) -> LossSums:
    """Cross-entropy against the target tokens (EOS included), without CTC."""
    weights_BU = weights_B[:, None] * (targets_BU != PAD)
    cross_entropy_M = F.cross_entropy(
        logits_BUV.float().flatten(0, 1), targets_BU.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    zero = weights_BU.new_zeros(())
    return LossSums(
        cross_entropy_M @ weights_BU.flatten(), ctc=zero, tokens=weights_BU.sum(), infeasible=zero, stray=zero
    )


def ctc_frames_needed(targets_BU: Tensor, lengths_B: Tensor) -> Tensor:
    """Number of states that CTC needs for each transcript, (B,): its tokens, and a blank between equal neighbours."""
    pair = torch.arange(targets_BU.shape[1], device=targets_BU.device)[1:]
    repeats_BU = (targets_BU[:, 1:] == targets_BU[:, :-1]) & (pair < lengths_B[:, None])
    return lengths_B + repeats_BU.sum(1)
