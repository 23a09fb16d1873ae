"""Random errors in texts, from which a transcript editor learns while its encoder cannot draft yet.

Shapes: N utterances of the split, B batch, U tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.config.tree import Drafts
from trainables.data.augmentation import generator
from trainables.data.text.token_batches import DeviceTexts
from trainables.data.text.tokenizer import SPECIAL_IDS
from trainables.masking import length_mask
from trainables.models.editing.slots import TokenRows, packed

CORRUPTION = -2  # last part of the key of the generator


class EpochCorruption:
    """Random errors of every utterance of a split in one epoch.

    Each token is deleted, replaced or followed by another, each with a third of `drafts.corruption_rate`.
    The draws are tables made from (seed, epoch) alone, so an utterance's errors do not depend on batch or worker.

    Args:
        texts: the references of the split.
        key: key of the random generator, (seed, epoch).
    """

    def __init__(self, config: Drafts, texts: DeviceTexts, vocab_size: int, key: Sequence[int]) -> None:
        random, total, device = generator(*key, CORRUPTION), int(texts.token_counts.sum()) + 1, texts.device
        counts_N = torch.from_numpy(texts.token_counts)
        self.rate, self.counts_N = config.corruption_rate, counts_N.clamp(min=1).to(device)
        self.offsets_N = (counts_N.cumsum(0) - counts_N).to(device)
        self.draws = torch.rand(total, generator=random).to(device)
        first = len(SPECIAL_IDS)
        self.others = torch.randint(first, max(vocab_size, first + 1), (total,), generator=random).to(device)
        self.chosen_N = (torch.rand(len(counts_N), generator=random) < config.corrupted_share).to(device)

    def corrupt(self, tokens: TokenRows, index_B: Tensor) -> TokenRows:
        """Tokens with errors; `index_B` are the utterances' numbers in the split."""
        ids_BU, lengths_B = tokens
        position_U = torch.arange(ids_BU.shape[1], device=ids_BU.device)
        place_BU = self.offsets_N[index_B, None] + position_U % self.counts_N[index_B, None]
        kind_BU = (self.draws[place_BU] / max(self.rate, 1e-9) * 3).long()  # 0, 1, 2: an error; above: none
        other_BU = self.others[place_BU]
        valid_BU = length_mask(lengths_B, ids_BU.shape[1])
        said_BU2 = torch.stack([other_BU.where(kind_BU == 1, ids_BU), other_BU], dim=-1)
        kept_BU2 = torch.stack([valid_BU & (kind_BU != 0), valid_BU & (kind_BU == 2)], dim=-1)
        return packed(said_BU2.flatten(1), kept_BU2.flatten(1))

    def corrupt_chosen(self, drafts: TokenRows, index_B: Tensor) -> TokenRows:
        """Drafts, those of a share `drafts.corrupted_share` of the utterances with errors."""
        changed = self.corrupt(drafts, index_B)
        width = max(drafts.ids_BU.shape[1], changed.ids_BU.shape[1])
        rows = [torch.nn.functional.pad(ids_BU, (0, width - ids_BU.shape[1])) for ids_BU in (changed[0], drafts[0])]
        chosen_B = self.chosen_N[index_B]
        return TokenRows(rows[0].where(chosen_B[:, None], rows[1]), changed[1].where(chosen_B, drafts[1]))
