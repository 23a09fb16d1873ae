"""Decodes audio with FFmpeg into mono samples at 16 kHz; memory does not grow with the channels or sample rate."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
import soxr

from trainables.data.audio.parts import Part, PartFile, empty, find_parts, truncated
from trainables.data.features import SAMPLE_RATE, Samples
from trainables.errors import InputError

# Formats that hold samples; others could name files and addresses to read.
FORMATS = "wav,w64,aiff,au,caf,flac,ogg,mp3,mov,matroska"
LOWEST_RATE = 1_000  # Hz: a lower rate keeps nothing of speech, and resampling would multiply its samples
EXACT_SEEK = ("pcm_", "flac", "vorbis", "opus", "mp3")  # codecs with right times after a seek, by FFmpeg's names
PREROLL = 1.0  # seconds decoded before a segment: in lossy codecs, the first samples after a seek are not exact
UNREADABLE = "Convert or replace the file (WAV, FLAC, Ogg and MP3 are read)."
# A manifest's durations are often rounded to hundredths: a segment may exceed the file by so much.
SEGMENT_TOLERANCE = 0.02  # seconds


@dataclass(frozen=True)
class Limits:
    """Upper limits of `read_audio`, checked with the file's header, or while decoding if the header lacks the value.

    Args:
        seconds: duration of the recording.
        channels: channels of the recording.
        rate: sample rate in Hz.
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
    """Mono samples (N,) at 16 kHz in [-1, 1] of an audio file, or of a segment of it.

    Channels are averaged, and other sample rates are resampled. A file is read to its end, even if its header gives
    another length, and audio files joined into one are read one after the other. Memory is that of the result.

    Args:
        source: a file's path, or its content as a binary file that can seek.
        offset: start of the segment in seconds.
        duration: length of the segment in seconds; None: to the end.
        limits: upper limits of the file.
        name: name of `source` in errors; default: its path.

    Raises:
        InputError: the file is missing, not audio, empty, truncated, beyond the limits, or shorter than the segment;
            or it holds samples that are not finite.
    """
    name = name or str(source)
    collected = bytearray()  # grows in place
    with _opened(source, limits, name) as audio:
        for block in audio.segment(offset, duration) if offset or duration is not None else audio.whole():
            collected += block.tobytes()
            if len(collected) > 4 * SAMPLE_RATE * limits.seconds:
                raise _too_long(name, limits)
    if not collected:
        raise InputError(f"{name}: no audio between offset {offset:g} s and its end", "Remove it or ask for more.")
    return np.frombuffer(collected, dtype=np.float32)


def check_audio(source: Path | BinaryIO, limits: Limits = UNLIMITED, name: str | None = None) -> None:
    """Refuses an audio file that `read_audio` would refuse, as far as its structure and first samples tell.

    Raises:
        InputError: the file is missing, not audio, empty, truncated or beyond the limits.
    """
    name = name or str(source)
    with _opened(source, limits, name) as audio:
        for part in audio.parts:
            with audio.decoder(part) as decoder:
                if next(decoder.whole(), None) is None:
                    raise empty(name)


def mono(samples: npt.NDArray[np.floating], rate: int) -> Samples:
    """Samples (N, channels) at `rate` Hz -> their channels' mean (N,) at 16 kHz."""
    mean = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mean = soxr.resample(mean, rate, SAMPLE_RATE)
    return np.ascontiguousarray(mean, dtype=np.float32)


class _Decoder:
    """FFmpeg decoder of one part of a file."""

    def __init__(self, container: av.container.InputContainer, part: Part, name: str) -> None:
        self._container, self._name = container, name
        self._stream = stream = container.streams.audio[0]
        self._codec = stream.codec_context.name
        if self._codec == "flac":  # else FFmpeg conceals a damaged frame
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self.rate, self.channels = stream.rate, stream.channels
        # Duration in the header in seconds; 0 if unknown.
        self.seconds = (container.duration or 0) / av.time_base if part.sized else 0.0

    def whole(self) -> Iterator[tuple[int, Samples]]:
        """Yields the sample rate and the mono samples (N,) of each frame.

        Raises:
            InputError: the part has no samples, or fewer than its FLAC header says.
        """
        count = 0
        for frame in self._frames():
            count += frame.samples
            yield frame.rate, _mono_samples(frame, self._name)
        if self._codec == "flac" and count < round(self.seconds * self.rate):
            raise truncated(self._name)
        if not count:
            raise empty(self._name)

    def positioned(self, start: int) -> Iterator[tuple[int, Samples]]:
        """Yields frames as (number of the first sample, mono samples), from a frame at or before sample `start` on."""
        position, origin = 0, (self._container.start_time or 0) / av.time_base
        seekable = self._codec.startswith(EXACT_SEEK)
        if seekable:
            seconds = origin + max(0.0, start / self.rate - PREROLL)
            self._container.seek(round(seconds * av.time_base))
        for frame in self._frames():
            if seekable and frame.time is not None:
                position = round((frame.time - origin) * self.rate)
            yield position, _mono_samples(frame, self._name)
            position += frame.samples

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decoded frames from the current position to the end of the part."""
        for packet in self._container.demux(self._stream):
            try:
                yield from packet.decode()
            except av.InvalidDataError:
                if not self._codec.startswith("mp3"):  # where players skip a damaged frame, too
                    raise


def _mono_samples(frame: av.AudioFrame, name: str) -> Samples:
    """Mean of a frame's channels, (N,) in [-1, 1].

    Raises:
        InputError: samples are not finite.
    """
    samples = frame.to_ndarray()  # (channels, N), or (1, N * channels) where channels alternate
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind in "iu":
        samples = samples / (1 << (8 * samples.dtype.itemsize - 1)) - (samples.dtype.kind == "u")
    samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise InputError(f"{name}: samples that are not finite numbers", "Convert or replace the file.")
    return samples.mean(axis=0) if len(samples) > 1 else samples[0]


@dataclass(frozen=True)
class _Audio:
    """An open file and the parts in it."""

    file: BinaryIO
    parts: list[Part]
    limits: Limits
    name: str

    def whole(self) -> Iterator[Samples]:
        """Yields all samples of the file at 16 kHz in blocks."""
        for part in self.parts:
            with self.decoder(part) as decoder:
                for rate, frames in groupby(decoder.whole(), key=itemgetter(0)):
                    yield from _at_16_khz((samples for _, samples in frames), rate)

    def segment(self, offset: float, duration: float | None) -> Iterator[Samples]:
        """Yields the samples at 16 kHz of `duration` seconds from second `offset` on, in blocks.

        Raises:
            InputError: the file is shorter by more than `SEGMENT_TOLERANCE`, or has no samples in the segment.
        """
        found = 0
        with self.decoder(self.parts[0]) as decoder:
            rate = decoder.rate if len(self.parts) == 1 else SAMPLE_RATE
            start = round(offset * rate)
            end = math.inf if duration is None else start + round(duration * rate)
            blocks = decoder.positioned(start) if len(self.parts) == 1 else self._positioned()
            for block in _at_16_khz(_cut(blocks, start, end), rate):
                found += len(block)
                yield block
        if not found or (duration or 0) - found / SAMPLE_RATE > SEGMENT_TOLERANCE:
            total = sum(map(len, self.whole())) / SAMPLE_RATE
            length = f" + duration {duration:g} s" if duration is not None else " s"
            raise InputError(
                f"{self.name}: offset {offset:g}{length} reaches beyond its {total:.2f} s",
                "Correct the offset and the duration.",
            )

    def _positioned(self) -> Iterator[tuple[int, Samples]]:
        position = 0
        for block in self.whole():
            yield position, block
            position += len(block)

    @contextmanager
    def decoder(self, part: Part) -> Iterator[_Decoder]:
        """An open decoder of `part`.

        Raises:
            InputError: the part is not audio, or beyond the limits.
        """
        options = {"format_whitelist": FORMATS, "max_probe_packets": "1"}  # or it searches WAV for DTS
        try:
            with av.open(PartFile(self.file, part), "r", options=options) as container:
                if not container.streams.audio or container.streams.audio[0].codec_context is None:
                    raise InputError(f"{self.name}: no audio in a known codec", UNREADABLE)
                decoder = _Decoder(container, part, self.name)
                self._check_limits(decoder)
                yield decoder
        except av.FFmpegError as error:
            raise InputError(f"{self.name}: unreadable or truncated audio: {error.strerror}", UNREADABLE) from None

    def _check_limits(self, decoder: _Decoder) -> None:
        name, limits, rate, channels = self.name, self.limits, decoder.rate, decoder.channels
        if rate < LOWEST_RATE:
            raise InputError(f"{name}: a sample rate of {rate} Hz", "Convert or replace the file.")
        if rate > limits.rate:
            raise InputError(f"{name}: a sample rate of {rate} Hz, above {limits.rate:g}", "Resample it.")
        if channels > limits.channels:
            raise InputError(f"{name}: {channels} channels, above {limits.channels:g}", "Mix them to one.")
        if decoder.seconds > limits.seconds:
            raise _too_long(name, limits)


def _cut(blocks: Iterable[tuple[int, Samples]], start: int, end: float) -> Iterator[Samples]:
    """Yields the samples numbered `start` to `end` (exclusive) of blocks (number of the first sample, samples)."""
    for position, samples in blocks:
        if position >= end:
            return
        yield samples[max(0, start - position) : int(min(len(samples), end - position))]


def _at_16_khz(blocks: Iterable[Samples], rate: int) -> Iterator[Samples]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block))
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def _opened(source: Path | BinaryIO, limits: Limits, name: str) -> Iterator[_Audio]:
    """An open audio file.

    Raises:
        InputError: the file is missing or empty; or it cannot be opened, or read in the block.
    """
    try:
        if isinstance(source, Path):
            if not source.is_file():
                raise InputError(f"{name}: no such file", "Correct the path.")
            with source.open("rb") as file:
                status = os.fstat(file.fileno())
                if not status.st_size:
                    raise _zero_length(name)
                yield _Audio(file, _parts_of(source, name, status.st_size, status.st_mtime_ns), limits, name)
        else:
            if not source.seek(0, io.SEEK_END):
                raise _zero_length(name)
            yield _Audio(source, find_parts(source, name), limits, name)
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}", "Check its permissions and its disk.") from None


@lru_cache(maxsize=64)
def _parts_of(path: Path, name: str, size: int, changed: int) -> list[Part]:
    """Parts of an audio file, cached for reading many segments of one file.

    Args:
        size, changed: size in bytes and time of the last change, which make the cache notice a changed file.
    """
    with path.open("rb") as file:
        return find_parts(file, name)


def _too_long(name: str, limits: Limits) -> InputError:
    return InputError(f"{name}: longer than {limits.seconds:g} s", "Cut it into shorter recordings.")


def _zero_length(name: str) -> InputError:
    return InputError(f"{name}: zero-length file", "Replace the file or remove it.")
