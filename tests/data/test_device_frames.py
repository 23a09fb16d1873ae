"""Streamed features give the batches and the losses of resident ones, in little memory; the GPU's memory decides."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny
import torch
from effort import measured
from hypothesis import given
from hypothesis import strategies as st
from librispeech_lengths import FRAMES_PER_SECOND, TRAIN_CLEAN_100

from trainables.config.data import Augmentation, Features, SpecAugment
from trainables.data.augmentation import drawn_lengths, possible_lengths
from trainables.data.batch_plan import BatchPlan, PassBatch, Rows, placed
from trainables.data.batching import DeviceSplit, Normalizer
from trainables.data.corpus import Corpus, Split
from trainables.data.device import DeviceFrames, DeviceMemory, StreamedFrames, frames_on
from trainables.data.text.token_batches import gather_rows
from trainables.data.text.tokenizer import Tokenizer
from trainables.training.interruption import Interrupted
from trainables.training.loop import train

CPU = torch.device("cpu")
BINS = tiny.BINS
TOKENIZER = Tokenizer.train(["A BAD CAB"], tiny.config().tokenizer)
NORMALIZER = Normalizer(Features(normalization="cepstral"), torch.zeros(BINS), torch.ones(BINS), CPU)
MASKS = SpecAugment(frequency_masks=1, frequency_width=2, time_masks=1, time_width=0.2)
BABBLE = Augmentation(noise_share=0.6, babble_share=0.5)

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=30).map(np.array)


@contextmanager
def little_memory() -> Iterator[None]:
    """The device is said to have no room for features, so that they are streamed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceMemory, "of", lambda device: DeviceMemory(total=1, free=1))
        yield


def split_of(frames: npt.NDArray[np.int64], bins: int = BINS) -> Split:
    """A split of random features, whose utterances lie in another order than their numbers."""
    random = np.random.default_rng(len(frames))
    order = random.permutation(len(frames))
    offsets = np.empty_like(frames)
    offsets[order] = np.cumsum(frames[order]) - frames[order]
    features = torch.from_numpy(random.normal(-40, 10, (int(frames.sum()), bins)).astype(np.float16))
    ids, texts = [str(number) for number in range(len(frames))], ["CAB"] * len(frames)
    return Split("train", ids, texts, (frames / 100).astype(np.float32), frames, offsets, features)


def passes(frames: npt.NDArray[np.int64], budget: float, seed: int, rank: int, world: int) -> list[PassBatch]:
    """This worker's batches of an epoch with speeds of 0.9, 1 and 1.1."""
    plan = BatchPlan(frames, budget, seed, expected=possible_lengths(frames, 0.1))
    batches = plan.at(drawn_lengths(frames, 0.1, (seed, 1))).epoch(1)
    return placed(batches, np.full(len(frames), 4), rank, world, CPU)


def test_each_batch_names_the_one_after_it() -> None:
    found = passes(np.arange(1, 40), 100.0, seed=0, rank=1, world=2)
    assert len(found) > 5 and found[-1].following is None
    for batch, after in itertools.pairwise(found):
        assert batch.following is not None and batch.following.tolist() == after.rows.indices.tolist()


@given(lengths, st.floats(1, 2000), st.integers(0, 99), st.sampled_from([(0, 1), (0, 2), (1, 2)]), st.booleans())
def test_streamed_batches_are_the_resident_ones(
    frames: npt.NDArray, budget: float, seed: int, place: tuple[int, int], augmented: bool
) -> None:
    """Bit by bit, with speeds, masks and babble and without, for one worker and for two."""
    split = split_of(frames)
    resident = DeviceSplit(split, TOKENIZER, NORMALIZER, CPU)
    with little_memory():
        streamed = DeviceSplit(split, TOKENIZER, NORMALIZER, CPU)
    assert isinstance(streamed.features, StreamedFrames) and not isinstance(resident.features, StreamedFrames)
    draws: list[list[Any]] = []
    for data in (resident, streamed):
        timing = data.timing(0.1, 5, seed, 1)
        noise = data.noise(BABBLE, tiny.RECIPE)
        drawn = [data.masks(MASKS, seed, 1, timing), timing, data.acoustics(BABBLE, tiny.RECIPE, noise, seed, 1)]
        draws.append(drawn if augmented else [None, None, None])
    for planned in passes(frames, budget, seed, *place):
        edge = planned.edge if augmented else int(frames[planned.rows.indices].max()) + 1
        parts = planned.rows, edge, planned.tokens
        expected = resident.gather(*parts, *draws[0], planned.following)
        found = streamed.gather(*parts, *draws[1], planned.following)
        assert torch.equal(found.features_BTF, expected.features_BTF)
        assert torch.equal(found.lengths_B, expected.lengths_B)


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all_that_is_random": {
        **tiny.RANDOM, "data.speed_perturbation": 0.1, "specaugment.time_warp": 3, "augmentation.babble_share": 0.5,
        "training.pass_seconds": 2.0,
    },
    "a_share_of_the_data": {"training.stages": [{"data": 0.5}]},
    "editor": {**tiny.EDITING, "drafts.threshold": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_training_on_streamed_features_equals_training_on_resident_ones(name: str, tiny_corpus: Corpus) -> None:
    """Metrics of every epoch and weights, bit by bit."""
    config = tiny.config({"training.epochs": 2, "optimizer.lr": 1e-2, **RUNS[name]})
    resident, streamed = tiny.Recorder(), tiny.Recorder()
    expected = train(config, tiny_corpus, resident)
    with little_memory():
        trained = train(config, tiny_corpus, streamed)
    assert streamed.comparable() == resident.comparable()
    tiny.assert_same_weights(trained, expected)


def test_a_streamed_epoch_goes_on_in_its_middle(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = tiny.config({**tiny.RANDOM, "training.epochs": 1})
    straight, pieces = tiny.Recorder(), tiny.Recorder()
    answers = iter([False, False, True])  # before the epoch, and after the first two updates
    with little_memory():
        expected = train(config, tiny_corpus, straight)
        with pytest.raises(Interrupted) as interrupted:
            train(config, tiny_corpus, pieces, notice=lambda: next(answers))
        assert interrupted.value.updates == 2 and interrupted.value.save is not None
        interrupted.value.save(tmp_path / "unfinished")
        trained = train(config, tiny_corpus, pieces, checkpoint=tmp_path / "unfinished")
    assert pieces.comparable() == straight.comparable()
    tiny.assert_same_weights(trained, expected)


class Watched(StreamedFrames):
    """Streamed frames that remember what was read, where, and what of it is still in memory."""

    def __init__(self, split: Split) -> None:
        super().__init__(split.features, split.frames, split.offsets, CPU)
        self.read: list[list[int]] = []
        self.threads: set[str] = set()
        self.kept: list[weakref.ref[torch.Tensor]] = []

    def _read(self, numbers: Any, before: Any) -> Any:
        self.read.append(numbers.tolist())
        self.threads.add(threading.current_thread().name)
        staged = super()._read(numbers, before)
        self.kept.append(weakref.ref(staged.flat))
        return staged

    def held(self) -> int:
        """Frames in memory."""
        return sum(len(flat) for one in self.kept if (flat := one()) is not None)


def test_each_pass_is_read_once_one_pass_ahead_and_no_more_than_two_are_in_memory() -> None:
    frames = np.random.default_rng(0).integers(50, 200, 300)
    split = split_of(frames)
    watched, found = Watched(split), passes(frames, 2000.0, 0, 0, 1)
    largest = max(int(frames[planned.rows.indices].sum()) for planned in found)
    assert len(found) > 20 and largest < frames.sum() / 20
    for number, planned in enumerate(found):
        watched.stage(planned.rows.indices, planned.following)
        assert len(watched.flat) == frames[planned.rows.indices].sum()
        if watched.ahead is not None:
            watched.ahead.staged.result()
        assert len(watched.read) == min(number + 2, len(found))
        assert watched.held() <= 2 * largest
    assert watched.read == [sorted(planned.rows.indices.tolist()) for planned in found]
    assert all(name.startswith("frames") for name in watched.threads) and len(watched.threads) == 1


def test_a_pass_that_nobody_named_is_read_when_it_is_asked_for() -> None:
    """In validation, and for a picture of one utterance between two passes."""
    split = split_of(np.arange(5, 25))
    watched = Watched(split)
    for indices, following in (([3, 1], [7]), ([4], None), ([7], None)):
        watched.stage(np.array(indices), None if following is None else np.array(following))
        for number in indices:
            count, first = watched.extents_N2[number].tolist()
            assert torch.equal(watched.flat[first : first + count], split.utterance(number))
    assert watched.read == [[1, 3], [7], [4], [7]]


def test_an_utterance_that_was_never_staged_cannot_be_gathered() -> None:
    split = split_of(np.arange(5, 25))
    with little_memory():
        data = DeviceSplit(split, TOKENIZER, NORMALIZER, CPU)
    data.gather(Rows.of(np.array([1, 2])), 30)
    with pytest.raises(IndexError):
        data.features.flat[data.features.extents_N2[3, 1]]


def events_and_peak(streamed: StreamedFrames, found: list[PassBatch]) -> tuple[float, int]:
    """Calls and returns of Python in both threads for each pass that is staged and gathered; peak memory of numpy."""
    with measured() as effort:
        for planned in found:
            streamed.stage(planned.rows.indices, planned.following)
            lengths_B, offsets_B = streamed.extents_N2[planned.rows.index_B].unbind(1)
            gather_rows(streamed.flat, offsets_B, lengths_B, planned.edge)
    return effort.events / len(found), effort.peak


def test_passes_of_960_hours_are_streamed_without_a_loop_over_their_utterances() -> None:
    """Python does as much for ten times longer passes, and numpy needs a few numbers for each frame of a pass."""
    frames = TRAIN_CLEAN_100.lengths(281_241 / TRAIN_CLEAN_100.utterances).frames
    total, events = int(frames.sum()), []
    assert total / FRAMES_PER_SECOND > 960 * 3600
    features = torch.zeros(1, 2, dtype=torch.float16).expand(total, 2)  # of any length, in four bytes
    for seconds in (360, 3600):
        streamed = StreamedFrames(features, frames, np.cumsum(frames) - frames, CPU)
        plan = BatchPlan(frames, seconds * FRAMES_PER_SECOND)
        found = placed(plan.epoch(1), np.ones(len(frames)), 0, 1, CPU)[:8]
        assert sum(len(planned.rows.indices) for planned in found) > seconds / 20 * len(found)
        each, peak = events_and_peak(streamed, found)
        events.append(each)
        assert peak < 24 * seconds * FRAMES_PER_SECOND
    assert events[1] < 1.5 * events[0]


GPU = 140_000  # bytes


@pytest.mark.parametrize(
    ("memory", "room"),
    [
        (DeviceMemory(GPU, free=139_000), 69_000),  # the other half is for the model and its passes
        (DeviceMemory(GPU, free=75_000), 5_000),  # another process has the rest
        (DeviceMemory(GPU, free=60_000), 0),
        (DeviceMemory(GPU, free=139_000, own=20_000), 50_000),  # the training split is there already
        (DeviceMemory(GPU, free=139_000, share=0.25), 17_500),  # the first of four trials leaves room for the others
        (DeviceMemory(GPU, free=139_000, share=0.25, own=10_000), 7_500),
        (DeviceMemory(GPU, free=139_000, share=0.25, own=30_000), 0),
    ],
)
def test_features_have_the_room_that_a_process_s_share_leaves(memory: DeviceMemory, room: int) -> None:
    assert memory.room == room


def test_the_log_says_once_where_features_are(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    split = split_of(np.array([40, 60]))
    size = split.features.nbytes
    for free, kept in ((3 * size, True), (3 * size - 2, False)):
        monkeypatch.setattr(DeviceMemory, "of", lambda device, free=free: DeviceMemory(4 * size, free))
        assert isinstance(frames_on(CPU, split), StreamedFrames) != kept
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 1 and ("they are kept there" if kept else "reads its own from the memory map") in said[0]


def test_a_cpu_s_features_are_the_memory_map(tiny_corpus: Corpus, capfd: pytest.CaptureFixture) -> None:
    split = tiny_corpus.training_split()
    frames = frames_on(CPU, split)
    assert not isinstance(frames, StreamedFrames) and frames.flat.data_ptr() == split.features.data_ptr()
    assert capfd.readouterr().err == ""


def test_folds_share_the_resident_features_of_their_split_and_stream_each_their_own() -> None:
    split = split_of(np.arange(5, 25))
    one, other = split.part("one", np.arange(0, 20, 2)), split.part("other", np.arange(1, 20, 2))
    resident = frames_on(CPU, one)
    shared = frames_on(CPU, other, resident)
    assert shared.flat is resident.flat and shared.extents_N2[:, 1].tolist() == other.offsets.tolist()
    with little_memory():
        streamed = frames_on(CPU, one)
        assert isinstance(frames_on(CPU, other, streamed), StreamedFrames)
        assert type(frames_on(CPU, other, resident)) is DeviceFrames
