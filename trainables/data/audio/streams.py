"""The audio streams in a file, whatever its headers say about their length.

libsndfile trusts a header: it reads as many samples as that promises, of the first stream alone. But an encoder that
writes into a pipe leaves the length out, a recorder that is killed leaves 0, and files are joined with `cat`. So a file
is first walked along its own structure (WAV chunks, Ogg pages, MPEG frames), and each stream in it is given to
libsndfile on its own, behind a header with a length that is right.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from trainables.data.audio.mpeg import behind_id3, mpeg_runs
from trainables.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

PIPED = 0x7FFF_0000  # data sizes from here on stand for "unknown": SoX's 0x7FFFF000, ffmpeg's 0xFFFFFFFF
LARGEST = 0xFFFF_FFFF
# More than so much behind the samples that is no chunk is taken for more samples.
JUNK_SECONDS, JUNK_BYTES = 0.1, 4096
FLAC_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # with the STREAMINFO block's type and length
FLAC_HEADER = 26  # bytes up to the end of STREAMINFO's number of samples
SEARCHED_AT_ONCE = 1 << 16  # bytes
MOST_STREAMS, MOST_CHUNKS = 10_000, 10_000  # in a file: more are made to keep a reader busy


@dataclass(frozen=True)
class Stream:
    """One audio stream in a file: `head`, then the file's bytes from `start` to `end`.

    Args:
        promised: samples a channel that a replaced header said there are; None: what is decoded knows.
    """

    start: int
    end: int
    head: bytes = b""
    promised: int | None = None

    def bytes_of(self, file: BinaryIO) -> Spliced:
        """The stream's bytes, as a binary file of its own."""
        return Spliced(self.head, file, self.start, self.end)


class Spliced(io.RawIOBase):
    """Reads `head`, then the bytes of `file` from `start` to `end`.

    What the system refuses ends the file here and is kept in `error`: libsndfile, which calls this, passes nothing on.
    """

    def __init__(self, head: bytes, file: BinaryIO, start: int, end: int) -> None:
        self._head, self._file, self._start = head, file, start
        self._size = len(head) + end - start
        self._position = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        content = self._head[self._position : self._position + wanted]
        if not content:
            try:
                content = _at(self._file, self._start + self._position - len(self._head), wanted)
            except OSError as error:
                self.error = error
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position


def find_streams(file: BinaryIO, whole: bool, name: str) -> list[Stream]:
    """The streams of an audio file, in order; of a kind that is not known here, the file as it is.

    Args:
        whole: every stream is to be read from its start to its end. Else a FLAC stream's number of samples is left
            as its header has it, since libsndfile needs it to seek.
        name: for messages.

    Raises:
        InputError: the file ends before its structure does, goes on behind the end that its header names, or holds more
            streams than anybody joins.
    """
    streams = list(islice(_streams(file, whole, name), MOST_STREAMS + 1))
    if len(streams) > MOST_STREAMS:
        raise InputError(f"{name}: more than {MOST_STREAMS:,} audio files in one", "Split it.")
    return streams


def _streams(file: BinaryIO, whole: bool, name: str) -> Iterator[Stream]:
    size = file.seek(0, io.SEEK_END)
    start = behind_id3(file, 0)
    magic = _at(file, start, 12)
    if magic[:4] in (b"RIFF", b"RF64") and magic[8:] == b"WAVE":
        yield from _wav_streams(file, start, size, name)
        return
    if magic[:4] == b"OggS":
        yield from _ogg_streams(file, start, size, name)
        return
    if magic[:4] == b"fLaC":
        yield from _flac_streams(file, start, size, whole)
        return
    runs = mpeg_runs(file, start, size) if start or magic[:1] == b"\xff" else []
    for run in runs:
        if run.truncated:
            raise truncated(name)
    if not runs:
        _check_end(_promised_end(file, size), file, size, name)
    yield from [Stream(run.start, run.end, run.head) for run in runs] or [Stream(0, size)]


def _promised_end(file: BinaryIO, size: int) -> int:
    """Where an AIFF, AU, W64 or CAF file ends by its header; its real size where the header does not tell."""
    header = _at(file, 0, 24)
    if header[:4] == b"FORM":
        end = 8 + int.from_bytes(header[4:8], "big")
    elif header[:4] == b".snd":
        end = int.from_bytes(header[4:8], "big") + int.from_bytes(header[8:12], "big")
    elif header[:4] == b"riff":
        end = int.from_bytes(header[16:24], "little")
    elif header[:4] == b"caff":
        end = _last_chunk_end(file, size)
    else:
        return size
    return end if end < PIPED else size


def _last_chunk_end(file: BinaryIO, size: int) -> int:
    """Where the last chunk of a CAF file ends by its header: at the file's end, or behind it."""
    position = 8
    for _ in range(MOST_CHUNKS):
        if position >= size:
            return position
        position += 12 + int.from_bytes(_at(file, position, 12)[4:], "big")
    return size


def _check_end(end: int, file: BinaryIO, size: int, name: str, tolerated: float = JUNK_BYTES) -> None:
    """Raises an InputError unless a file of `size` bytes ends at `end`, but for `tolerated` bytes, or zeros."""
    if end > size:
        raise truncated(name)
    if size - end > tolerated and not _zeros(file, end):
        raise InputError(
            f"{name}: {size - end:,} bytes follow the samples that its header promises: the header was never finished",
            "Write it anew, for example with `sox --ignore-length`, or with `ffmpeg -i`.",
        )


def _zeros(file: BinaryIO, position: int) -> bool:
    """Whether a file has only zeros from `position` on."""
    file.seek(position)
    return all(not any(block) for block in iter(lambda: file.read(SEARCHED_AT_ONCE), b""))


def truncated(name: str) -> InputError:
    """The error for a file that ends too early."""
    return InputError(f"{name}: truncated audio: it ends before its header says", "Copy the file again.")


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _wav_streams(file: BinaryIO, first: int, size: int, name: str) -> Iterator[Stream]:
    """The streams of WAV files that are joined in one file."""
    start: int | None = first
    while start is not None:
        data, promised, bytes_a_second = _wav_data(file, start, size)
        if promised is None:
            yield Stream(start, size)  # no samples: for libsndfile to refuse
            return
        behind = data + promised + promised % 2
        if (promised >= PIPED and behind > size) or (not promised and _junk(file, data, size)[0]):
            rest = min(size - data, LARGEST)
            header = b"RIFF" + _at(file, start, data - start)[4:-4] + rest.to_bytes(4, "little")
            yield Stream(data, size, header)
            return
        if data + promised > size:
            raise truncated(name)
        junk, following = _junk(file, behind, size)
        _check_end(size - junk, file, size, name, JUNK_SECONDS * bytes_a_second)
        yield Stream(start, min(behind, size))
        start = following


def _wav_data(file: BinaryIO, start: int, size: int) -> tuple[int, int | None, int]:
    """Where the samples of a WAV file begin, how many bytes are promised (None: no such chunk), and bytes a second."""
    position, bytes_a_second, of_64_bits = start + 12, 1, None
    for _ in range(MOST_CHUNKS):
        header = _at(file, position, 8)
        if len(header) < 8:
            break
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            return position + 8, of_64_bits if of_64_bits is not None else length, bytes_a_second
        if header[:4] == b"ds64":  # RF64: sizes beyond 4 GB are here
            of_64_bits = int.from_bytes(_at(file, position + 16, 8), "little")
        if header[:4] == b"fmt ":
            bytes_a_second = int.from_bytes(_at(file, position + 16, 4), "little")
        position += 8 + length + length % 2
    return size, None, bytes_a_second


def _junk(file: BinaryIO, position: int, size: int) -> tuple[int, int | None]:
    """The bytes from `position` to `size` that are neither chunks, tags nor zeros; and where another WAV begins."""
    for _ in range(MOST_CHUNKS):
        header = _at(file, position, 12)
        if header[:4] in (b"RIFF", b"RF64") and header[8:] == b"WAVE":
            return 0, position
        length = int.from_bytes(header[4:8], "little")
        if header[:3] in (b"ID3", b"TAG"):
            return 0, None
        if len(header) < 8 or not all(32 <= byte < 127 for byte in header[:4]) or position + 8 + length > size:
            break
        position += 8 + length + length % 2
    return (0 if _zeros(file, position) else size - position), None


def _ogg_streams(file: BinaryIO, start: int, size: int, name: str) -> Iterator[Stream]:
    """The links of a chain of Ogg streams: one begins where a first page follows one that is none."""
    position, begun = start, False
    while position < size:
        header = _at(file, position, 27 + 255)
        if header[:4] != b"OggS":
            position = _find(file, (b"OggS",), position + 1, size)
            continue
        lacing = header[27 : 27 + header[26]] if len(header) > 26 else b""
        behind = position + 27 + len(lacing) + sum(lacing)
        if len(header) < 27 or len(lacing) < header[26] or behind > size:
            raise truncated(name)
        first = bool(header[5] & 2)
        if first and begun:
            yield Stream(start, position)
            start = position
        begun, position = not first, behind
    yield Stream(start, size)


def _flac_streams(file: BinaryIO, start: int, size: int, whole: bool) -> Iterator[Stream]:
    """The streams of FLAC files joined in one file; for a reader of the `whole`, with headers that promise nothing."""
    while start < size:
        end = _find(file, FLAC_STARTS, start + 1, size)
        header = bytearray(_at(file, start, FLAC_HEADER))
        promised = int.from_bytes(header[21:26], "big") & 0xF_FFFF_FFFF
        if whole and header[:8] in FLAC_STARTS and len(header) == FLAC_HEADER:
            header[21:26] = bytes([header[21] & 0xF0, 0, 0, 0, 0])  # 36 bits, 0: unknown
            yield Stream(start + FLAC_HEADER, end, bytes(header), promised)
        else:
            yield Stream(start, end)
        start = end


def _find(file: BinaryIO, patterns: tuple[bytes, ...], start: int, size: int) -> int:
    """Position of the first match of any pattern in a file, from `start` on; `size` if there is none."""
    overlap = max(map(len, patterns)) - 1
    while start < size:
        block = _at(file, start, SEARCHED_AT_ONCE)
        found = [place for pattern in patterns if (place := block.find(pattern)) >= 0]
        if found:
            return start + min(found)
        if len(block) <= overlap:
            break
        start += len(block) - overlap
    return size
