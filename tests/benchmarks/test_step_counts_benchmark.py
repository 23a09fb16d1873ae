"""What a pass asks of a GPU stays within the limits that the design of the fast path sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from librispeech_lengths import DEV_CLEAN
from noise_corpus import noise_corpus
from step_counts import Kernels, Uploads, counts, decode_steps, pass_counts

from search_spaces.reader import load_space
from trainables.config.tree import Config, Tokenizer
from trainables.data.corpus import Corpus
from trainables.data.device import DeviceMemory
from trainables.training.loop import Trainer

MOST_LAUNCHES = 900
MOST_GRAPHS = 2  # of three passes: the encoder's layers, and the decoder's


@pytest.fixture(scope="module")
def config() -> Config:
    """The base of `hw4p2`, with tokens that a small corpus can give."""
    return load_space("hw4p2").config({}).model_copy(update={"tokenizer": Tokenizer()})


def test_a_pass_of_the_course_s_model_stays_within_its_limits(config: Config, tmp_path: Path) -> None:
    found = counts(config, noise_corpus(tmp_path / "noise", 0.2), scale=0.1)
    assert 500 < found["launches"] <= MOST_LAUNCHES
    assert found["shapes"] <= 32 and found["padded_share"] <= 0.05
    assert found["uploads"] == found["waits"] == 0
    assert found["breaks"] == 0 and found["graphs"] == MOST_GRAPHS
    assert found["launches"] == sum(found["kernels"].values())


def test_a_streamed_pass_waits_for_nothing_and_launches_one_kernel_more(
    tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the main thread: another one reads and uploads."""
    config = tiny.config({**tiny.RANDOM, "data.speed_perturbation": 0.1, "augmentation.babble_share": 0.5})
    resident = pass_counts(Trainer(config, tiny_corpus, torch.device("cpu")))
    monkeypatch.setattr(DeviceMemory, "of", lambda device: DeviceMemory(total=1, free=1))
    streamed = pass_counts(Trainer(config, tiny_corpus, torch.device("cpu")))
    assert resident["uploads"] == resident["waits"] == streamed["waits"] == 0
    assert streamed["kernels"] == {**resident["kernels"], "index_copy_": 1}


def test_a_validation_takes_few_decoding_steps(config: Config) -> None:
    """A twentieth of the 6,634 of batches of 180 s that are padded to the edges of buckets."""
    assert decode_steps(DEV_CLEAN.lengths()) <= 330


def test_kernels_uploads_and_waits_are_counted() -> None:
    x, chosen = torch.ones(3, 4), torch.tensor([True, False, True])
    with Uploads() as uploads, Kernels() as kernels:
        (x.view(12) + torch.tensor(2.0)).sum().item()
        x[chosen]
        torch.nn.functional.dropout(x, 0.5)
    assert dict(kernels.launches) == {"add": 1, "sum": 1, "native_dropout": 1}
    assert uploads.uploads.total() == 1
    assert kernels.waits == {"_local_scalar_dense": 1, "index": 1}
