"""Decodes audio block by block into mono samples at 16 kHz, in memory that does not grow with channels or rate."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from trainables.data.audio.streams import Stream, find_streams, truncated
from trainables.data.features import SAMPLE_RATE, Samples
from trainables.errors import InputError

BLOCK = 1 << 17  # samples of all channels, decoded at once
LOWEST_RATE = 1_000  # Hz: below, nothing of speech is left, and one sample would become very many
UNKNOWN_LENGTH = 1 << 62  # samples: what libsndfile says then is more
# A manifest's durations are often rounded to hundredths: so much may be missing at a file's end.
SEGMENT_TOLERANCE = 0.02  # seconds


@dataclass(frozen=True)
class Limits:
    """The most that `read_audio` accepts, checked by the header where that tells, and else while decoding.

    Args:
        seconds: of the recording.
        channels: of the recording.
        rate: in Hz.
    """

    seconds: float = math.inf
    channels: float = math.inf
    rate: float = math.inf


UNLIMITED = Limits()


def read_audio(
    source: Path | BinaryIO,
    offset: float = 0.0,
    duration: float | None = None,
    limits: Limits = UNLIMITED,
    name: str | None = None,
) -> Samples:
    """Mono samples (N,) at 16 kHz in [-1, 1] of an audio file, or of a part of it.

    Channels are averaged; any sample rate is resampled. A file is read until it ends, whatever its header says about
    its length, and files joined into one are read one after the other. Memory is that of the result.

    Args:
        source: a file's path, or its content as a binary file that can seek.
        offset: seconds from the start.
        duration: seconds; None: to the end.
        limits: what to refuse.
        name: what to call `source` in errors; default: its path.

    Raises:
        InputError: the file is missing, not audio, empty, truncated, beyond the limits, or shorter than the part
            that is asked for; or it holds samples that are not numbers.
    """
    name = name or str(source)
    whole = not offset and duration is None
    collected = bytearray()  # grows in place
    with _opened(source, name, whole) as (file, streams):
        audio = _Audio(file, streams, limits, name)
        for block in audio.blocks() if whole else audio.part(offset, duration):
            collected += block.tobytes()
            if len(collected) > 4 * SAMPLE_RATE * limits.seconds:
                raise _too_long(name, limits)
    if not collected:
        raise InputError(f"{name}: no audio between offset {offset:g} s and its end", "Remove it or ask for more.")
    return np.frombuffer(collected, dtype=np.float32)


def check_audio(source: Path | BinaryIO, limits: Limits = UNLIMITED, name: str | None = None) -> None:
    """Refuses an audio file that `read_audio` would refuse, as far as can be told without decoding.

    Raises:
        InputError: the file is missing, not audio, empty, truncated or beyond the limits.
    """
    name = name or str(source)
    with _opened(source, name, whole=False) as (file, streams):
        for stream in streams:
            with _decoder(file, stream, limits, name):
                pass


def mono(samples: npt.NDArray[np.floating], rate: int) -> Samples:
    """Samples (N, channels) at `rate` Hz -> their channels' mean (N,) at 16 kHz."""
    mean = _mean(samples)
    if rate != SAMPLE_RATE:
        mean = soxr.resample(mean, rate, SAMPLE_RATE)
    return np.ascontiguousarray(mean, dtype=np.float32)


def _mean(samples: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]


class _Decoder(soundfile.SoundFile):
    """A decoder that reads until the stream ends, whatever its length.

    soundfile asks a file that can seek for its position, which fails if the length is unknown.
    """

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True)
class _Audio:
    """An open file and the streams in it."""

    file: BinaryIO
    streams: list[Stream]
    limits: Limits
    name: str

    def blocks(self) -> Iterator[Samples]:
        """All samples of the file at 16 kHz, block by block."""
        for stream in self.streams:
            with _decoder(self.file, stream, self.limits, self.name) as decoder:
                known = decoder.frames if decoder.frames < UNKNOWN_LENGTH else 0
                promised = known if stream.promised is None else stream.promised
                yield from _at_16_khz(self._decoded(decoder, None, promised), decoder.samplerate)

    def part(self, offset: float, duration: float | None) -> Iterator[Samples]:
        """Samples of the seconds from `offset` on at 16 kHz, by seeking where one stream has a known length."""
        if len(self.streams) == 1:
            with _decoder(self.file, self.streams[0], self.limits, self.name) as decoder:
                if decoder.frames < UNKNOWN_LENGTH:
                    rate = decoder.samplerate
                    start, wanted = round(offset * rate), None if duration is None else round(duration * rate)
                    wanted = self._inside(start, wanted, decoder.frames, rate, offset, duration)
                    if start:
                        decoder.seek(start)
                    yield from _at_16_khz(self._decoded(decoder, wanted, wanted), rate)
                    return
        yield from self._decoded_part(offset, duration)

    def _decoded_part(self, offset: float, duration: float | None) -> Iterator[Samples]:
        """Samples of the seconds from `offset` on at 16 kHz, block by block, decoding everything before them."""
        start = round(offset * SAMPLE_RATE)
        wanted = None if duration is None else round(duration * SAMPLE_RATE)
        behind = math.inf if wanted is None else start + wanted
        position = 0
        for block in self.blocks():
            if position >= behind:
                return
            yield block[max(0, start - position) : int(min(len(block), behind - position))]
            position += len(block)
        self._inside(start, wanted, position, SAMPLE_RATE, offset, duration)

    def _inside(
        self, start: int, wanted: int | None, total: int, rate: int, offset: float, duration: float | None
    ) -> int:
        """Number of samples to read from `start` on: `wanted` or, within rounding, as many as there are.

        Raises:
            InputError: there are fewer than `wanted` by more than rounding explains, or none.
        """
        there = total - start
        if there <= 0 or (wanted is not None and wanted - there > SEGMENT_TOLERANCE * rate):
            end = f" + duration {duration:g} s" if duration is not None else " s"
            raise InputError(
                f"{self.name}: offset {offset:g}{end} reaches beyond its {total / rate:.2f} s",
                "Correct the offset and the duration.",
            )
        return there if wanted is None else min(wanted, there)

    def _decoded(self, decoder: _Decoder, wanted: int | None, promised: int) -> Iterator[Samples]:
        """The next samples' mean over the channels, at their own rate: `wanted` of them, None for all that come."""
        size = max(1, BLOCK // decoder.channels)
        found = 0
        while wanted is None or found < wanted:
            asked = size if wanted is None else min(size, wanted - found)
            block = decoder.read(asked, dtype="float32", always_2d=True)
            if not len(block):
                break
            if not np.isfinite(block).all():
                raise InputError(f"{self.name}: samples that are not finite numbers", "Convert or replace the file.")
            found += len(block)
            yield _mean(block)
        if found < promised:
            raise truncated(self.name)
        if not found:
            raise _empty(self.name)


def _at_16_khz(blocks: Iterable[Samples], rate: int) -> Iterator[Samples]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block))
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def _opened(source: Path | BinaryIO, name: str, whole: bool) -> Iterator[tuple[BinaryIO, list[Stream]]]:
    """An open audio file, and the streams in it.

    Raises:
        InputError: the file is missing or empty, or the system cannot read it, now or later.
    """
    try:
        if not isinstance(source, Path):
            if not source.seek(0, io.SEEK_END):
                raise _zero_length(name)
            yield source, find_streams(source, whole, name)
            return
        if not source.is_file():
            raise InputError(f"{name}: no such file", "Correct the path.")
        with source.open("rb") as file:
            status = os.fstat(file.fileno())
            if not status.st_size:
                raise _zero_length(name)
            if whole:
                yield file, find_streams(file, whole, name)
            else:
                yield file, _streams_for_parts(source, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}", "Check its permissions and its disk.") from None


@lru_cache(maxsize=64)
def _streams_for_parts(path: Path, size: int, changed: int) -> list[Stream]:
    """The streams of an audio file, cached: many parts may be read from it, each by a call of its own."""
    with path.open("rb") as file:
        return find_streams(file, whole=False, name=str(path))


@contextmanager
def _decoder(file: BinaryIO, stream: Stream, limits: Limits, name: str) -> Iterator[_Decoder]:
    """An open decoder of one stream.

    Raises:
        InputError: the stream is no audio, empty, or beyond the limits.
    """
    content = stream.bytes_of(file)
    try:
        with _Decoder(content) as decoder:
            if not decoder.frames:
                raise _empty(name)
            rate, channels = decoder.samplerate, decoder.channels
            if rate < LOWEST_RATE:
                raise InputError(f"{name}: a sample rate of {rate} Hz", "Convert or replace the file.")
            if rate > limits.rate:
                raise InputError(f"{name}: a sample rate of {rate} Hz, above {limits.rate:g}", "Resample it.")
            if channels > limits.channels:
                raise InputError(f"{name}: {channels} channels, above {limits.channels:g}", "Mix them to one.")
            if decoder.frames < UNKNOWN_LENGTH and decoder.frames > limits.seconds * rate:
                raise _too_long(name, limits)
            yield decoder
    except (soundfile.SoundFileError, RuntimeError) as error:
        problem = getattr(error, "error_string", "") or "damaged"
        remedy = "Convert or replace the file (WAV, FLAC, Ogg and MP3 are read)."
        raise InputError(f"{name}: unreadable or truncated audio: {problem}", remedy) from None
    finally:
        if content.error:  # the cause of whatever else was found
            raise content.error


def _too_long(name: str, limits: Limits) -> InputError:
    return InputError(f"{name}: longer than {limits.seconds:g} s", "Cut it into shorter recordings.")


def _zero_length(name: str) -> InputError:
    return InputError(f"{name}: zero-length file", "Replace the file or remove it.")


def _empty(name: str) -> InputError:
    return InputError(f"{name}: zero-length audio", "Replace the file or remove it.")
