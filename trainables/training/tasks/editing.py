"""Training of a transcript editor.

Shapes: B batch, T frames, U tokens, P text positions, N' text positions of all utterances together, L characters of the
longest token, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from trainables.config.tree import Config, Loss
from trainables.data.batch_plan import PassBatch
from trainables.data.batching import Batch
from trainables.data.corpus import Corpus
from trainables.evaluation.examples import Attention, editor_attention
from trainables.masking import length_mask
from trainables.models.editing.losses import EditorLosses, editor_losses
from trainables.models.editing.slots import TokenRows, packed
from trainables.models.editing.transcript_editor import Edited, TranscriptEditor
from trainables.training.tasks.corruption import EpochCorruption
from trainables.training.tasks.recognition import RecognitionTask
from trainables.training.tasks.task import BatchLoss

ALONE = 4  # utterances by which the real-time factor at batch 1 is measured


class EditingTask(RecognitionTask):
    """Training of a transcript editor on a corpus.

    The editor learns from the encoder's own drafts once their CER on the validation split is below `drafts.threshold`,
    and from corrupted references before.
    """

    SUMS = (*(field.name for field in fields(EditorLosses)), "tokens")
    CERS = ("val_cer", "val_ctc_cer", "val_one_step_cer")
    DRAFTS = True

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        super().__init__(config, corpus, device)
        spellings = [torch.tensor(row, dtype=torch.long) for row in self.trained.tokenizer.spellings()]
        self.spellings_VL = pad_sequence(spellings, batch_first=True).to(device)

    @property
    def network(self) -> TranscriptEditor:
        """The network, outside of any wrapper."""
        return cast(TranscriptEditor, self.trained.model)

    def start_epoch(self, epoch: int, history: Sequence[Mapping[str, Any]]) -> None:
        super().start_epoch(epoch, history)
        config, texts = self.config.drafts, self.train_data.texts
        self.own_drafts = any(row["val_ctc_cer"] < config.threshold for row in history)
        key = (self.config.training.seed, epoch)
        self.corruption = EpochCorruption(config, texts, self.trained.tokenizer.vocab_size, key)

    def losses(self, model: nn.Module, config: Loss, planned: PassBatch) -> BatchLoss:
        batch = self.training_batch(planned)
        references, index_B = references_of(batch), planned.rows.index_B

        def drafts(own: TokenRows) -> TokenRows:
            if not self.own_drafts:
                return self.corruption.corrupt(references, index_B)
            return self.corruption.corrupt_chosen(own, index_B) if self.config.drafts.corrupted_share else own

        with self.trained.autocast():
            edited = model(batch.features_BTF, batch.lengths_B, drafts, batch.weights_B)
        sums, tokens = self.summed(edited, batch), (batch.target_lengths_B * batch.weights_B).sum()
        counts = torch.stack([sums.positions, sums.pooled, sums.states, tokens]).detach()
        if dist.is_initialized():
            dist.all_reduce(counts)
        of_all = replace(sums, positions=counts[0], pooled=counts[1], states=counts[2])
        return BatchLoss(of_all.total(config) * counts[3], torch.stack([*vars(sums).values(), tokens]).detach())

    def summed(self, edited: Edited, batch: Batch) -> EditorLosses:
        """Sums of the losses of a batch."""
        references = references_of(batch)
        spellings_BUL = self.spellings_VL[batch.targets_BU]
        spoken_BU = length_mask(references.lengths_B, batch.targets_BU.shape[1])
        characters_BU = (spellings_BUL * spoken_BU[..., None]).flatten(1)
        spellings = packed(characters_BU, characters_BU > 0)
        return editor_losses(edited, references, spellings, self.network.slot, batch.weights_B)

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, Any]:
        return {
            "train_loss": self.mean_loss(sums),
            "train_editing": sums["editing"] / sums["positions"],
            "train_copying": sums["copying"] / sums["positions"],
            "train_drafting": sums["drafting"] / sums["pooled"],
            "train_spelling": sums["spelling"] / sums["states"],
            "infeasible_ctc": int(sums["infeasible"]),
            "own_drafts": int(self.own_drafts),
        }

    def mean_loss(self, sums: Mapping[str, float]) -> float:
        """The total loss of sums over any number of batches."""
        parts = {field.name: torch.tensor(sums[field.name]) for field in fields(EditorLosses)}
        return EditorLosses(**parts).total(self.config.loss).item()

    @torch.no_grad()
    def validate(self, epoch: int, rank: int, world: int, heed: Callable[[], None]) -> dict[str, Any]:
        """Loss, CER and WER after the configured steps, CER of the draft and after one step, real-time factors."""
        return {**super().validate(epoch, rank, world, heed), "real_time_factor_alone": self._factor_alone()}

    def _validate_batch(self, indices: np.ndarray, edge: int) -> tuple[Tensor, float, list[list[str]]]:
        network, decode = self.network, self.trained.tokenizer.decode
        batch, texts = self.validation_batch(indices, edge), []
        with self.trained.autocast():
            start = time.perf_counter()
            draft = network.encode(batch.features_BTF, batch.lengths_B)
            texts.append(self.trained.decode(self.search, draft, batch.lengths_B))
            seconds = time.perf_counter() - start
            texts.append(self.trained.decode_ctc(draft))
            edited = network.edited(draft)
            texts.append([decode(ids) for ids in network.collapsed(edited.logits_NV, edited.positions).lists()])
        sums = self.summed(edited, batch)
        return torch.stack([*vars(sums).values(), batch.target_lengths_B.sum()]), seconds, texts

    def _factor_alone(self) -> float:
        """Real-time factor at batch 1: decoding of a few utterances of the validation split, one by one."""
        split = self.validation_data.split
        order = np.argsort(split.frames, kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(ALONE, len(order))).astype(int)]
        seconds = 0.0
        for index in chosen:
            batch = self.validation_batch(np.array([index]), int(split.frames[index]))
            with self.trained.autocast():
                start = time.perf_counter()
                draft = self.network.encode(batch.features_BTF, batch.lengths_B)
                self.trained.decode(self.search, draft, batch.lengths_B)
                seconds += time.perf_counter() - start
        return seconds / float(split.seconds[chosen].sum())

    def attention(self, index: int) -> Attention:
        return editor_attention(self.trained, self.validation_data, index)


def references_of(batch: Batch) -> TokenRows:
    """Tokens of the references of a batch, without EOS."""
    return TokenRows(batch.targets_BU, batch.target_lengths_B - 1)
