"""Splits a file into the audio files joined in it, and checks where each ends, before FFmpeg decodes them.

FFmpeg does not report that a file is truncated, stops at the length in the header even if the file is longer, and
decodes only the first of several files joined with `cat`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from trainables.errors import InputError

PIPED = 0x7FFF_0000  # sizes from here on mean "unknown": SoX writes 0x7FFFF000 into a pipe, ffmpeg 0xFFFFFFFF
JUNK = 4096  # bytes after the samples that are ignored; more of them are samples that the header does not count
MOST_PARTS, MOST_CHUNKS = 10_000, 10_000  # a file with more is malicious
SEARCHED_AT_ONCE = 1 << 20  # bytes
MARKER_BYTES = 64  # more bytes than any marker has
LARGEST_OGG_PAGE = 65_307  # bytes

# How a FLAC, an Ogg and an MP3 file begins. An MP3 file has a first frame without sound that describes the stream.
FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22.{13}(?P<total>.{5})", re.DOTALL)
OGG_START = re.compile(rb"OggS\x00[\x02\x03]")
MP3_START = re.compile(
    rb"\xff[\xe2-\xff]..(?:..)?\x00{9,32}(?:VBRI|(?:Xing|Info)\x00\x00\x00(?P<flags>.).{8})", re.DOTALL
)


@dataclass(frozen=True)
class Part:
    """One audio file inside a file, from byte `start` to byte `end`.

    Args:
        sized: whether its header has its length.
        head: bytes that replace the first bytes of the file.
    """

    start: int
    end: int
    sized: bool = True
    head: bytes = b""


class PartFile:
    """The bytes of `part` as a file of its own, for FFmpeg."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file, self._part, self._position = file, part, 0

    def read(self, count: int) -> bytes:
        start = self._part.start + self._position
        content = self._part.head[self._position :][:count]
        content = content or _at(self._file, start, max(0, min(count, self._part.end - start)))
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._part.end - self._part.start}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position


def find_parts(file: BinaryIO, name: str) -> list[Part]:
    """The audio files joined in `file`, in order; a file of an unknown format is one part.

    Args:
        name: name of the file in errors.

    Raises:
        InputError: the file is truncated, has samples after the end in its header, or has more than `MOST_PARTS` parts.
    """
    parts = list(islice(_parts(file, name), MOST_PARTS + 1))
    if len(parts) > MOST_PARTS:
        raise InputError(f"{name}: more than {MOST_PARTS:,} audio files in one", "Split it.")
    return parts


def truncated(name: str) -> InputError:
    """Error for a truncated file."""
    return InputError(f"{name}: truncated audio: it ends before its header says", "Copy the file again.")


def empty(name: str) -> InputError:
    """Error for a file without samples."""
    return InputError(f"{name}: zero-length audio", "Replace the file or remove it.")


def _parts(file: BinaryIO, name: str) -> Iterator[Part]:
    size = file.seek(0, io.SEEK_END)
    start = _id3_end(file)
    magic = _at(file, start, 12)
    if _is_wav(magic):
        yield from _wav_parts(file, start, size, name)
    elif magic[:4] == b"OggS":
        yield from _ogg_parts(file, size, name)
    elif magic[:4] == b"fLaC":
        for match, part in _marked_parts(file, FLAC_START, size):
            samples = int.from_bytes(match["total"], "big") & 0xF_FFFF_FFFF if match else 0
            yield Part(part.start, part.end, samples > 0)
    elif magic[:1] == b"\xff" or start:
        for match, part in _marked_parts(file, MP3_START, size):
            if match and part.end - part.start < _promised_mp3_bytes(match):
                raise truncated(name)
            yield Part(part.start, part.end, sized=False)
    else:
        end = _header_end(file, size)
        _check_end(end, file, size, name)
        yield Part(0, end)


def _marked_parts(
    file: BinaryIO, marker: re.Pattern[bytes], size: int
) -> Iterator[tuple[re.Match[bytes] | None, Part]]:
    """Yields the parts of a file that begin with `marker` with their matches; the first part begins at byte 0."""
    start, found, position = 0, None, 0
    while position < size:
        block = _at(file, position, SEARCHED_AT_ONCE + MARKER_BYTES)
        for match in marker.finditer(block):
            if match.start() >= SEARCHED_AT_ONCE:
                break
            if found:
                yield found, Part(start, position + match.start())
                start = position + match.start()
            found = match
        position += SEARCHED_AT_ONCE
    yield found, Part(start, size)


def _promised_mp3_bytes(first_frame: re.Match[bytes]) -> int:
    """Size of an MP3 file in bytes according to its first frame; 0 if unknown."""
    flags = first_frame["flags"]
    if flags is None or not flags[0] & 2:
        return 0
    return int.from_bytes(first_frame[0][-4:] if flags[0] & 1 else first_frame[0][-8:-4], "big")


def _ogg_parts(file: BinaryIO, size: int, name: str) -> Iterator[Part]:
    """Yields the links of a chain of Ogg streams, each of which begins with one or more first pages.

    Raises:
        InputError: the last page of a link is truncated.
    """
    starts = [part.start for _, part in _marked_parts(file, OGG_START, size)]
    starts = [start for before, start in zip([-1, *starts], starts, strict=False) if _page_end(file, before) != start]
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        tail = max(start, end - LARGEST_OGG_PAGE - 3)  # three bytes of another page may follow
        last = _at(file, tail, end - tail).rfind(b"OggS")
        page_end = _page_end(file, tail + last) if last >= 0 else end
        if page_end > end or _at(file, page_end, end - page_end) in (b"O", b"Og", b"Ogg"):  # a page's first bytes
            raise truncated(name)
        yield Part(start, end)


def _page_end(file: BinaryIO, position: int) -> int:
    """Byte offset of the end of the Ogg page at `position`; the largest possible one if its header is truncated."""
    header = _at(file, max(position, 0), 27 + 255)
    if len(header) < 27 or len(header) < 27 + header[26]:
        return position + LARGEST_OGG_PAGE
    return position + 27 + header[26] + sum(header[27 : 27 + header[26]])


def _wav_parts(file: BinaryIO, start: int, size: int, name: str) -> Iterator[Part]:
    """Yields the WAV files joined in a file.

    Raises:
        InputError: a chunk of samples is truncated, or further samples follow it.
    """
    position, data_of_64_bits = start + 12, None
    for _ in range(MOST_CHUNKS):
        header = _at(file, position, 24)
        kind, length = header[:4], int.from_bytes(header[4:8], "little")
        if _is_wav(header):
            yield Part(start, position)
            start, position = position, position + 12
            continue
        if kind == b"ds64":  # sizes beyond 4 GB
            data_of_64_bits = int.from_bytes(header[16:24], "little")
        if kind == b"data":
            length = length if data_of_64_bits is None else data_of_64_bits
            data = position + 8
            if not length and _follows_chunk(file, data, size):
                raise empty(name)
            if not length or (length >= PIPED and data + length > size):
                head = _at(file, start, data - start).replace(b"RF64", b"RIFF", 1).replace(b"ds64", b"JUNK", 1)
                yield Part(start, size, sized=False, head=head)
                return
            if data + length > size:
                raise truncated(name)
        elif not _is_chunk(header, position, size):
            break
        position += 8 + length + length % 2
    if kind[:3] not in (b"ID3", b"TAG"):
        _check_end(min(position, size), file, size, name)
    yield Part(start, min(position, size))


def _is_wav(header: bytes) -> bool:
    return header[:4] in (b"RIFF", b"RF64") and header[8:12] == b"WAVE"


def _is_chunk(header: bytes, position: int, size: int) -> bool:
    """Whether `header` at `position` begins a chunk that fits into a file of `size` bytes."""
    end = position + 8 + int.from_bytes(header[4:8], "little")
    return len(header) >= 8 and all(32 <= byte < 127 for byte in header[:4]) and end <= size


def _follows_chunk(file: BinaryIO, position: int, size: int) -> bool:
    """Whether `position` has a chunk, another WAV file, only zeros, or the end of the file, but no samples."""
    header = _at(file, position, 12)
    return _is_wav(header) or _is_chunk(header, position, size) or _zeros(file, position)


def _header_end(file: BinaryIO, size: int) -> int:
    """Byte offset of the end of an AIFF, AU, W64 or CAF file according to its header; `size` if unknown."""
    header = _at(file, 0, 24)
    if header[:4] == b"FORM":
        end = 8 + int.from_bytes(header[4:8], "big")
    elif header[:4] == b".snd":
        end = int.from_bytes(header[4:8], "big") + int.from_bytes(header[8:12], "big")
    elif header[:4] == b"riff":
        end = int.from_bytes(header[16:24], "little")
    elif header[:4] == b"caff":
        end = 8
        for _ in range(MOST_CHUNKS):
            if end >= size:
                break
            end += 12 + int.from_bytes(_at(file, end, 12)[4:], "big")
    else:
        return size
    return end if end < PIPED else size


def _check_end(end: int, file: BinaryIO, size: int, name: str) -> None:
    """Raises InputError if `size` is below `end`, or more than `JUNK` bytes that are not all 0 follow `end`."""
    if end > size:
        raise truncated(name)
    if size - end > JUNK and not _zeros(file, end):
        raise InputError(
            f"{name}: {size - end:,} bytes follow the samples that its header promises: the header was never finished",
            "Write it anew, for example with `sox --ignore-length`, or with `ffmpeg -i`.",
        )


def _zeros(file: BinaryIO, position: int) -> bool:
    file.seek(position)
    return all(not any(block) for block in iter(lambda: file.read(SEARCHED_AT_ONCE), b""))


def _id3_end(file: BinaryIO) -> int:
    """Byte offset of the end of the ID3v2 tag at a file's start; 0 without a tag."""
    header = _at(file, 0, 10)
    if header[:3] != b"ID3" or len(header) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)
