"""CPU, GPU and memory use of one worker during an epoch.

CPU time and memory are those of the process, so trials on one machine do not count each other's; GPU utilisation is
that of the whole device.
"""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

GB = 10**9  # bytes
STATUS = Path("/proc/self/status")  # on Linux


class ResourceUsage:
    """Measures from its creation until `metrics` is called; `sample` is to be called now and then between."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start, self.cpu_start = time.perf_counter(), time.process_time()
        self.gpu_percent: list[int] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def sample(self) -> None:
        """Records the GPU's utilisation at this moment."""
        if self.device.type == "cuda":
            # Without the package, on a MIG slice, or with a driver that does not report it, there is none.
            with suppress(ModuleNotFoundError, RuntimeError, *nvml_errors()):
                self.gpu_percent.append(torch.cuda.utilization(self.device))

    def metrics(self) -> dict[str, Any]:
        """Utilisation as a fraction (of the CPU: of torch's threads), peak memory in 10^9 bytes.

        `memory_gb` is the process's peak since its start, `gpu_memory_gb` the peak of allocated tensors.
        """
        seconds, cpu_seconds = time.perf_counter() - self.start, time.process_time() - self.cpu_start
        found = {
            "cpu_utilization": cpu_seconds / (seconds * torch.get_num_threads()),
            "memory_gb": peak_memory() / GB,
        }
        if self.device.type == "cuda":
            found["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / GB
        if self.gpu_percent:
            found["gpu_utilization"] = sum(self.gpu_percent) / len(self.gpu_percent) / 100
        return found


def nvml_errors() -> tuple[type[Exception], ...]:
    """The errors of NVIDIA's management library, where it is installed."""
    try:
        from pynvml import NVMLError
    except ModuleNotFoundError:
        return ()
    return (NVMLError,)


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    if not STATUS.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    lines = STATUS.read_text(encoding="utf-8").splitlines()  # Linux's getrusage begins with the parent's peak
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
