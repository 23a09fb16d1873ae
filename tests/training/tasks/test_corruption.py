"""Random errors in texts: as many as asked, of all three kinds, the same however the split is batched."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch

from trainables.config.tree import Drafts
from trainables.data.batch_plan import Rows
from trainables.data.corpus import Corpus
from trainables.data.text.token_batches import DeviceTexts
from trainables.data.text.tokenizer import SPECIAL_IDS
from trainables.evaluation.metrics import align_characters
from trainables.models.editing.slots import TokenRows
from trainables.training.loop import Trainer
from trainables.training.tasks.corruption import EpochCorruption

CPU = torch.device("cpu")
TEXTS = 400


@pytest.fixture(scope="module")
def texts(tiny_corpus: Corpus) -> DeviceTexts:
    """Many random texts of the characters of the tiny corpus."""
    tokenizer = Trainer(tiny.config(), tiny_corpus, CPU).task.trained.tokenizer
    random = np.random.default_rng(0)
    return DeviceTexts(["".join(random.choice(list("ABCDEF"), 30)) for _ in range(TEXTS)], tokenizer, CPU)


def corruption(texts: DeviceTexts, key: tuple[int, int] = (0, 1), **fields: float) -> EpochCorruption:
    return EpochCorruption(Drafts.model_validate(fields), texts, tiny.VOCABULARY, key)


def rows_of(texts: DeviceTexts, indices: np.ndarray) -> TokenRows:
    """The texts of some utterances, padded to the longest of them."""
    batch = texts.gather(Rows.of(indices), int(texts.token_counts[indices].max()) + 1)
    return TokenRows(batch.targets_BU, batch.target_lengths_B - 1)


def written(tokens: list[int]) -> str:
    """Tokens as letters, so that texts can be aligned."""
    return "".join(chr(ord("a") + token) for token in tokens)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_third_of_the_errors_is_of_each_kind(rate: float, texts: DeviceTexts) -> None:
    everything = np.arange(TEXTS)
    tokens = rows_of(texts, everything)
    changed = corruption(texts, corruption_rate=rate).corrupt(tokens, torch.arange(TEXTS))
    assert min(min(row) for row in changed.lists() if row) >= len(SPECIAL_IDS)
    pairs = [pair for one, other in zip(tokens.lists(), changed.lists(), strict=True)
             for pair in align_characters([written(one)], [written(other)])[0]]  # fmt: skip
    kinds = [pair.operation for pair in pairs if pair.operation != "equal"]
    total = sum(map(len, tokens.lists()))
    # A replacement by the same token is no error, and an alignment may explain two errors by one.
    assert 0.75 * rate < len(kinds) / total <= 1.1 * rate
    for kind in ("insert", "delete", "substitute"):
        assert 0.2 < kinds.count(kind) / len(kinds) < 0.47


def test_without_a_rate_nothing_changes(texts: DeviceTexts) -> None:
    tokens = rows_of(texts, np.arange(50))
    assert corruption(texts, corruption_rate=0.0).corrupt(tokens, torch.arange(50)).lists() == tokens.lists()


def test_errors_depend_on_seed_and_epoch_and_on_no_batch(texts: DeviceTexts) -> None:
    whole = corruption(texts, corruption_rate=0.3).corrupt(rows_of(texts, np.arange(60)), torch.arange(60)).lists()
    order = np.random.default_rng(1).permutation(60)
    again = corruption(texts, corruption_rate=0.3)
    for start, end in pairwise([0, 1, 8, 33, 60]):
        indices = order[start:end]
        found = again.corrupt(rows_of(texts, indices), torch.from_numpy(indices)).lists()
        assert found == [whole[index] for index in indices]
    for key in ((0, 2), (1, 1)):
        other = corruption(texts, key, corruption_rate=0.3).corrupt(rows_of(texts, np.arange(60)), torch.arange(60))
        assert other.lists() != whole


def test_a_share_of_the_drafts_is_corrupted(texts: DeviceTexts) -> None:
    index, drafts = torch.arange(TEXTS), rows_of(texts, np.arange(TEXTS))
    counts = {}
    for share in (0.0, 0.4, 1.0):
        errors = corruption(texts, corruption_rate=0.5, corrupted_share=share)
        found, whole = errors.corrupt_chosen(drafts, index).lists(), errors.corrupt(drafts, index).lists()
        chosen = [one != other for one, other in zip(found, drafts.lists(), strict=True)]
        counts[share] = sum(chosen)
        assert all(one == other for one, other, yes in zip(found, whole, chosen, strict=True) if yes)
    assert counts[0.0] == 0 and counts[1.0] == TEXTS
    assert counts[0.4] == pytest.approx(0.4 * TEXTS, abs=0.1 * TEXTS)


def test_a_draft_may_be_longer_than_its_reference(texts: DeviceTexts) -> None:
    """The tables of draws are as long as the references; a draft of any length gets errors, an empty one none."""
    ids = torch.randint(len(SPECIAL_IDS), tiny.VOCABULARY, (2, 300))
    found = corruption(texts, corruption_rate=0.3).corrupt(TokenRows(ids, torch.tensor([300, 0])), torch.tensor([3, 4]))
    assert found.lists()[1] == [] and found.lists()[0] != ids[0].tolist()
