"""A worker's device and its memory, which decides whether features lie there or are streamed into it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from trainables.data.corpus import Split
from trainables.data.device.frames import DeviceFrames, StreamedFrames
from trainables.output import say

GB = 10**9  # bytes
# Share of what a process may use that its features leave free: for weights, optimizer state and the activations of a
# pass. Streaming takes little time where reading is faster than training; too little memory ends the trial.
RESERVE = 0.5


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a GPU in bytes, as one process finds it.

    Args:
        total: of the whole GPU.
        free: used by no process.
        own: held by this process, inside torch.
        share: fraction of the GPU that the process may use; see `limit_share`.
    """

    total: int
    free: int
    own: int = 0
    share: float = 1.0

    @classmethod
    def of(cls, device: torch.device) -> DeviceMemory | None:
        """Memory of a device at this moment; None for a CPU, whose features are the memory map."""
        if device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(device)
        share = torch.cuda.get_per_process_memory_fraction(device.index)
        return cls(total, free, torch.cuda.memory_reserved(device), share)

    @property
    def left(self) -> int:
        """Bytes that this process can still take: what is left of its share, or of the GPU."""
        return max(0, min(self.free, int(self.total * self.share) - self.own))

    @property
    def room(self) -> int:
        """Bytes that features may take: what is left, but for the reserve."""
        return max(0, self.left - int(int(self.total * self.share) * RESERVE))


def default_device() -> torch.device:
    """This worker's GPU, by the rank that launchers put into `LOCAL_RANK`, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


def limit_share(device: torch.device, gpus: float) -> None:
    """Limits this process to its share of a GPU's memory, where it was given a fraction of one (`gpus` below 1).

    What wants more runs out of memory, instead of taking the memory of the other processes on that GPU.
    """
    if device.type == "cuda" and 0 < gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus, device.index)


def frames_on(device: torch.device, split: Split, shared: DeviceFrames | None = None) -> DeviceFrames:
    """Frames of a split for gathering on a device: all of them, or streamed where the device has no room for them.

    On a CPU they are the memory map. On a GPU, the log says which of the two.

    Args:
        shared: frames of another part of the same split; if all of them are on the device, they are used.
    """
    lengths_N, offsets_N = torch.from_numpy(split.frames), torch.tensor(split.offsets)
    if shared is not None and not isinstance(shared, StreamedFrames):
        return DeviceFrames(shared.flat, lengths_N, offsets_N)
    memory, size = DeviceMemory.of(device), split.features.nbytes
    if memory is None:
        return DeviceFrames(split.features, lengths_N, offsets_N)
    about = f"{split.name}: {size / GB:.2f} GB of features, room for {memory.room / GB:.2f} GB on the GPU"
    if size <= memory.room:
        say(f"{about}: they are kept there")
        return DeviceFrames(split.features.to(device), lengths_N, offsets_N)
    say(f"{about}: each pass reads its own from the memory map")
    return StreamedFrames(split.features, split.frames, split.offsets, device)
