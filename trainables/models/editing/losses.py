"""The training loss of a transcript editor: four means, each over its own positions.

Shapes: B batch, S encoder states, P positions, U tokens, C characters and the blank, N' text positions of all
utterances together, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainables.config.tree import Loss
from trainables.masking import length_mask
from trainables.models.editing.draft import MID_BLANK
from trainables.models.editing.editor import unflattened
from trainables.models.editing.slots import TokenRows
from trainables.models.editing.transcript_editor import Edited
from trainables.models.losses import ctc_frames_needed


@dataclass
class EditorLosses:
    """Sums over a batch of the four losses, and what each is divided by.

    Attributes:
        editing: CTC loss of the edited text.
        copying: cross-entropy of each text position against its own input, slots included.
        drafting: CTC loss of the draft.
        spelling: CTC loss of the mid head, over characters.
        positions, pooled, states: text positions, states of the draft and encoder states in the batch.
        infeasible: utterances whose references have more tokens than the draft can hold.
    """

    editing: Tensor
    copying: Tensor
    drafting: Tensor
    spelling: Tensor
    positions: Tensor
    pooled: Tensor
    states: Tensor
    infeasible: Tensor

    def total(self, config: Loss) -> Tensor:
        """Loss of a batch: the sum of the four means with their weights."""
        return (
            (self.editing + config.copy_weight * self.copying) / self.positions
            + config.draft_weight * self.drafting / self.pooled
            + config.mid_weight * self.spelling / self.states
        )


def editor_losses(
    edited: Edited, references: TokenRows, spellings: TokenRows, slot: int, weights_B: Tensor
) -> EditorLosses:
    """Losses of a batch.

    A reference that no alignment can have, with fewer positions than tokens, adds 0.

    Args:
        references: tokens of the references.
        spellings: characters of the references, by the mid head's ids.
        slot: the blank of the draft and of the edited text.
        weights_B: weight of each utterance; 0 for those that only fill the batch.
    """
    draft, positions, logits_NV = edited
    logits_NV = logits_NV.float()
    lengths_B, ids_BP = positions.lengths_B, positions.ids_BU
    valid_BP = length_mask(lengths_B, ids_BP.shape[1])
    copying_N = F.cross_entropy(logits_NV, ids_BP[valid_BP], reduction="none")
    return EditorLosses(
        editing=ctc_sum(unflattened(logits_NV, positions), lengths_B, references, slot, weights_B),
        copying=(unflattened(copying_N, positions).sum(1) * weights_B).sum(),
        drafting=ctc_sum(draft.logits_BPV, draft.pooled_lengths_B, references, slot, weights_B),
        spelling=ctc_sum(draft.mid_logits_BSC, draft.lengths_B, spellings, MID_BLANK, weights_B),
        positions=(lengths_B * weights_B).sum(),
        pooled=(draft.pooled_lengths_B * weights_B).sum(),
        states=(draft.lengths_B * weights_B).sum(),
        infeasible=((ctc_frames_needed(*references) > draft.pooled_lengths_B) * weights_B).sum(),
    )


def ctc_sum(logits_BPV: Tensor, lengths_B: Tensor, targets: TokenRows, blank: int, weights_B: Tensor) -> Tensor:
    """Weighted sum of the CTC losses of a batch (Graves et al., 2006); those without any alignment count 0."""
    losses_B = F.ctc_loss(
        logits_BPV.log_softmax(-1).transpose(0, 1),
        targets.ids_BU,
        lengths_B,
        targets.lengths_B,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    return (losses_B * weights_B).sum()
