"""Audio that is too much, or made to be, or on a disk that fails."""

from __future__ import annotations

import errno
import io
import tracemalloc

import numpy as np
import pytest
from sounds import KINDS, encoded, noise, read

from trainables.data.audio import Limits, check_audio, read_audio
from trainables.errors import InputError


class Failing(io.BytesIO):
    """A file on a disk with a bad sector: whoever reads across the byte `bad` gets an error."""

    bad = 0

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() <= self.bad < self.tell() + (size or 0):
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_system_cannot_read_is_said(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = Failing(encoded(noise(64_000), kind))
    file.bad = len(file.getvalue()) // 2
    with pytest.raises(InputError, match="sent: cannot be read: Input/output error"):
        read_audio(file, name="sent")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_file_made_to_keep_a_reader_busy_is_refused(kind: str) -> None:
    """Chunks without content, and streams without end."""
    content = encoded(noise(1600), kind)
    for busy in (content[:12] + b"JUNK\0\0\0\0" * 10**6, content * 10_001):
        with pytest.raises(InputError, match="sent: "):
            read(busy)


def test_limits_are_named() -> None:
    content = encoded(np.stack([noise(96_000)] * 2, axis=1), "flac", 48_000)
    assert len(read(content, limits=Limits(seconds=2, channels=2, rate=48_000))) == 32_000
    for limits, problem in (
        (Limits(seconds=1.9), "longer than 1.9 s"),
        (Limits(channels=1), "2 channels, above 1"),
        (Limits(rate=44_100), "a sample rate of 48000 Hz, above 44100"),
    ):
        with pytest.raises(InputError, match=f"sent: {problem}"):
            read(content, limits=limits)
        with pytest.raises(InputError, match=f"sent: {problem}"):
            check_audio(io.BytesIO(content), limits, "sent")
    with pytest.raises(InputError, match="sent: a sample rate of 10 Hz"):
        read(encoded(noise(100), "wav", 10))


def test_what_does_not_know_its_length_is_refused_while_it_is_decoded() -> None:
    """Ten hours of silence are a FLAC file of some 100 kB: no more is decoded than is allowed."""
    content = bytearray(encoded(np.zeros(10 * 3600 * 1000, dtype=np.int16), "flac", 1000))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    tracemalloc.start()
    with pytest.raises(InputError, match="sent: longer than 60 s"):
        read(bytes(content), limits=Limits(seconds=60))
    assert tracemalloc.get_traced_memory()[1] < 30e6  # bytes; all of it would be 2.3 GB
    tracemalloc.stop()


def test_memory_is_that_of_the_result() -> None:
    """Not that of all channels at their own rate, here 64 times as much."""
    content = encoded(np.zeros((192_000 * 10, 5), dtype=np.int16), "flac", 192_000)
    tracemalloc.start()
    samples = read(content)
    assert tracemalloc.get_traced_memory()[1] < 4 * len(samples) + 8e6
    tracemalloc.stop()
