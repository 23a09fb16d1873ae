"""What one worker's process and its GPU were seen to do during an epoch.

Processor time and memory are those of the process, so trials on one machine do not read each other's; a GPU's use is
that of the whole device.
"""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

try:
    import pynvml
except ModuleNotFoundError:  # nvidia-ml-py: training does without what it reads
    pynvml = None

GB = 10**9  # bytes
STATUS = Path("/proc/self/status")  # Linux has it


class Readings:
    """Begins when it is made; `look` is called now and then until `metrics` are asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.wall, self.processor = time.perf_counter(), time.process_time()
        self.used: list[int] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def look(self) -> None:
        """Takes a sample of what only the present moment shows: how busy the GPU is."""
        if self.device.type == "cuda" and pynvml is not None:
            with suppress(pynvml.NVMLError, RuntimeError):  # a part of a GPU, or a driver, that does not tell
                self.used.append(torch.cuda.utilization(self.device))

    def metrics(self) -> dict[str, Any]:
        """Utilisations as shares (of all the processor's threads that torch may use), peaks of memory in 10^9 bytes.

        `memory_gb` is the peak since the process began, `gpu_memory_gb` that of what tensors held.
        """
        processor, wall = time.process_time() - self.processor, time.perf_counter() - self.wall
        found = {"cpu_utilization": processor / (wall * torch.get_num_threads()), "memory_gb": peak_memory() / GB}
        if self.device.type == "cuda":
            found["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / GB
        if self.used:
            found["gpu_utilization"] = sum(self.used) / len(self.used) / 100
        return found


def peak_memory() -> int:
    """Most bytes that this process has held."""
    if not STATUS.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = STATUS.read_text(encoding="utf-8").splitlines()  # what getrusage says here begins with the parent's
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
