"""Feature frames of a split on a device, from which batches are gathered.

`DeviceFrames` has all of them. `StreamedFrames` has those of one pass, and reads those of the next meanwhile. Both give
the same numbers to the same gathering: only the place of an utterance's first frame differs.

Shapes: N utterances, M utterances of a pass, K voices of a babble, F mel bins.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]
NOWHERE = np.iinfo(np.int64).max // 2  # first frame of an utterance that was never staged: an error in every gathering


class DeviceFrames:
    """All frames of a split in one buffer on a device.

    Attributes:
        flat: frames of utterances one after the other, (frames, F).
        extents_N2: number of frames of each utterance, and the place of its first one in `flat`.
    """

    def __init__(self, flat: Tensor, lengths_N: Tensor, offsets_N: Tensor) -> None:
        self.flat = flat
        self.extents_N2 = torch.stack([lengths_N, offsets_N], 1).to(flat.device)

    def stage(self, indices: Integers, following: Integers | None = None, voices_NK: Integers | None = None) -> None:
        """Brings the frames of the utterances of a pass into `flat`, which has all of them here.

        Args:
            indices: numbers of the utterances.
            following: those of the pass after it, where it is known.
            voices_NK: numbers of the utterances that are mixed with each utterance; None: with none.
        """


class StreamedFrames(DeviceFrames):
    """The frames of one pass at a time, read from a memory map and uploaded while the pass before is computed.

    A thread copies the frames of a pass into pinned memory, from where they go to the GPU on a stream of its own: the
    main thread waits for neither, unless reading takes longer than a pass. Reading is one pass ahead at most, and an
    upload begins when the pass before the current one is done, so the GPU holds the frames of two passes. On a CPU
    nothing is pinned or uploaded.

    Args:
        memory_map: frames of the split, (frames, F), on the CPU.
        lengths: (N,) frames of each utterance.
        offsets: (N,) place of its first frame in `memory_map`.
    """

    def __init__(self, memory_map: Tensor, lengths: Integers, offsets: Integers, device: torch.device) -> None:
        nowhere_N = torch.full((len(lengths),), NOWHERE)
        super().__init__(memory_map.new_empty(0, memory_map.shape[1], device=device), torch.tensor(lengths), nowhere_N)
        self.memory_map, self.lengths, self.offsets = memory_map, lengths, offsets
        self.device = self.flat.device  # with the GPU's number: a new thread works on the first one
        on_gpu = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if on_gpu else None
        self.reader = ThreadPoolExecutor(1, "frames", partial(torch.cuda.set_device, self.device) if on_gpu else None)
        self.ahead: _Reading | None = None

    def stage(self, indices: Integers, following: Integers | None = None, voices_NK: Integers | None = None) -> None:
        """Brings the frames of the utterances of a pass into `flat`, and begins to read those of the pass after it.

        Other utterances are no longer there. If the pass was not the `following` one of the last call, it is read now.

        Args:
            indices: numbers of the utterances.
            following: those of the pass after it; None: nothing is read ahead.
            voices_NK: numbers of the utterances that are mixed with each utterance; None: with none.
        """
        numbers = heard(indices, voices_NK)
        reading, self.ahead = self.ahead, None
        if reading is None or not np.array_equal(reading.numbers, numbers):
            reading = self._begin(numbers)
        self._take(reading.staged.result())
        if following is not None:
            self.ahead = self._begin(heard(following, voices_NK))

    def _begin(self, numbers: Integers) -> _Reading:
        """Begins to read utterances; their upload waits for the work that the device has been given so far."""
        before = None
        if self.stream is not None:
            before = torch.cuda.Event(blocking=True)  # a thread that waits for it takes no CPU time
            before.record(torch.cuda.current_stream(self.device))
        return _Reading(numbers, self.reader.submit(self._read, numbers, before))

    def _read(self, numbers: Integers, before: torch.cuda.Event | None) -> _Staged:
        """Runs in the thread: reads utterances from the memory map, and begins their upload once `before` is reached.

        The thread waits, and not the stream: until then, the GPU's memory has no place for them.
        """
        lengths = self.lengths[numbers]
        starts = np.cumsum(lengths) - lengths
        places = torch.from_numpy(np.repeat(self.offsets[numbers] - starts, lengths) + np.arange(lengths.sum()))
        table_2M = torch.from_numpy(np.stack([numbers, starts]))
        with contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            shape, kind = (len(places), self.memory_map.shape[1]), self.memory_map.dtype
            flat = torch.empty(shape, dtype=kind, pin_memory=self.stream is not None)
            torch.index_select(self.memory_map, 0, places, out=flat)
            if self.stream is None or before is None:
                return _Staged(flat, table_2M, None)
            before.synchronize()
            flat = flat.to(self.device, non_blocking=True)  # torch keeps pinned memory until it is copied
            table_2M = table_2M.pin_memory().to(self.device, non_blocking=True)
            return _Staged(flat, table_2M, self.stream.record_event())

    def _take(self, staged: _Staged) -> None:
        """Makes what was read the content of `flat`, for the work that the device is given from now on."""
        if staged.uploaded is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(staged.uploaded)
            for tensor in (staged.flat, staged.table_2M):  # of another stream: kept until this one has read them
                tensor.record_stream(current)
        self.flat = staged.flat
        numbers_M, starts_M = staged.table_2M
        self.extents_N2[:, 1].index_copy_(0, numbers_M, starts_M)


class _Staged(NamedTuple):
    """Utterances that were read.

    Attributes:
        flat: their frames, on the device.
        table_2M: the numbers of the utterances, and the place of the first frame of each in `flat`.
        uploaded: reached when both are on the device; None on a CPU.
    """

    flat: Tensor
    table_2M: Tensor
    uploaded: torch.cuda.Event | None


class _Reading(NamedTuple):
    """Utterances that are being read: their numbers, and what will have been read."""

    numbers: Integers
    staged: Future[_Staged]


def heard(indices: Integers, voices_NK: Integers | None) -> Integers:
    """Numbers of the utterances whose frames a pass needs, ascending: its own, and those that are mixed with them."""
    if voices_NK is not None:
        indices = np.concatenate([indices, voices_NK[indices].ravel()])
    return np.unique(indices)
