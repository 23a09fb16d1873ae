"""The frames of MPEG audio (MP3), counted one by one, since its headers may lack their number or be wrong about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

# From ISO/IEC 11172-3 and 13818-3. Layers and versions are numbered as the header's bits do: 3 is layer I and MPEG 1.
LAYER_I, LAYER_III = 3, 1
MPEG_1, MPEG_2, MPEG_2_5 = 3, 2, 0
MONO = 3
KBITS = {  # kbit/s by bitrate index, from 1 on
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {MPEG_1: (44_100, 48_000, 32_000), MPEG_2: (22_050, 24_000, 16_000), MPEG_2_5: (11_025, 12_000, 8_000)}
# What may be a header's first three bytes: neither a reserved version or layer, nor an impossible bitrate or rate.
_THIRD = bytes(byte for byte in range(256) if 0 < byte >> 4 < 15 and byte >> 2 & 3 < 3)
POSSIBLE = re.compile(b"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][" + re.escape(_THIRD) + b"]")
SEARCHED = 1 << 16  # bytes, at once
MOST_MISTAKEN = 100_000  # places that look like a frame and are none: with more, the file is something else


@dataclass(frozen=True)
class Header:
    """Header of an MPEG frame: its first four bytes, parsed."""

    length: int  # bytes of the frame
    format: tuple[int, int, int, bool]  # version, layer, rate, mono: constant in a stream
    info: int  # where in the frame a Xing or Info tag would be


@dataclass
class Run:
    """Frames of one format without anything between them.

    Args:
        head: a frame to put in front, which says how many there are; empty where the first one says that.
        tagged: whether the first frame is a Xing or Info frame, which holds no sound and counts as none.
        promised: frames that it promises, 0 where it does not.
        cut: whether the file ends inside the frame that would follow.
    """

    start: int
    end: int
    frames: int = 0
    tagged: bool = False
    promised: int = 0
    head: bytes = b""
    cut: bool = False

    @property
    def truncated(self) -> bool:
        """Whether frames are missing. A promise of one more than there are counts the first frame, that of no sound."""
        return self.frames < self.promised - (0 if self.cut else 1)


@lru_cache(maxsize=1024)
def parse(header: bytes) -> Header | None:
    """Parses the four bytes of a frame's header; None if they are none, or of the free format (which nobody writes)."""
    bits = int.from_bytes(header, "big")
    version, layer, mono = bits >> 19 & 3, bits >> 17 & 3, bits >> 6 & 3 == MONO
    bitrate, rate_index, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
    if len(header) < 4 or bits >> 21 != 0x7FF or version == 1 or not layer or bitrate in (0, 15) or rate_index == 3:
        return None
    first = version == MPEG_1
    rate, bits_a_second = RATES[version][rate_index], 1000 * KBITS[first, layer][bitrate - 1]
    if layer == LAYER_I:
        length = 4 * (12 * bits_a_second // rate + padding)
    else:
        length = (144 if first or layer != LAYER_III else 72) * bits_a_second // rate + padding
    checksum = 0 if bits >> 16 & 1 else 2
    side_information = (17 if mono else 32) if first else (9 if mono else 17)
    return Header(length, (version, layer, rate, mono), 4 + checksum + side_information)


def behind_id3(file: BinaryIO, position: int) -> int:
    """The place behind an ID3v2 tag at `position`, or `position` itself where there is none."""
    file.seek(position)
    header = file.read(10)
    if header[:3] != b"ID3" or len(header) < 10:
        return position
    length = 0
    for byte in header[6:]:
        length = length << 7 | byte & 0x7F
    return position + 10 + length


def mpeg_runs(file: BinaryIO, start: int, size: int) -> list[Run]:
    """The runs of MPEG frames between `start` and `size` in a file, without tags and whatever else is no frame.

    A run begins at every Xing or Info frame and where the format changes, so that joined files are apart again. Where
    that first frame is missing or wrong about the number of frames, one that is right becomes the run's head.
    """
    runs: list[Run] = []
    position, format, mistaken = start, None, 0  # `format` of the run that goes on here
    while position < size:
        file.seek(position)
        begin = file.read(256)
        header = parse(begin[:4])
        if header is None or (header.format != format and not _followed(file, position, header, size)):
            position, format, mistaken = _next_frame(file, position, size), None, mistaken + 1
            if mistaken > MOST_MISTAKEN:
                return []
            continue
        if position + header.length > size:
            if runs:
                runs[-1].cut = True
            break
        tag, promised = _information(begin, header)
        if header.format != format or tag:
            if runs and not tag:
                runs[-1].promised = 0  # it was of frames that are in both runs
            runs.append(Run(position, position, tagged=tag, promised=promised))
        if not tag:
            runs[-1].frames += 1
        position += header.length
        runs[-1].end, format = position, header.format
    for run in runs:
        _complete(file, run)
    return [run for run in runs if run.frames]


def _followed(file: BinaryIO, position: int, header: Header, size: int) -> bool:
    """Whether a frame is followed by one of its format or by the file's end; else its header is one by chance."""
    behind = position + header.length
    file.seek(behind)
    following = parse(file.read(4))
    return behind == size or (following is not None and following.format == header.format)


def _next_frame(file: BinaryIO, position: int, size: int) -> int:
    """The next place behind `position` where a frame may begin; `size` if there is none."""
    tagged = behind_id3(file, position)
    if tagged > position:
        return tagged
    position += 1
    while position < size:
        file.seek(position)
        block = file.read(SEARCHED)
        found = POSSIBLE.search(block)
        if found:
            return position + found.start()
        position += max(1, len(block) - 2)
    return size


def _information(frame: bytes, header: Header) -> tuple[bool, int]:
    """Whether a frame holds no sound but information about the stream; and the frames that it promises, or 0."""
    if header.format[1] != LAYER_III:
        return False, 0
    if frame[36:40] == b"VBRI":
        return True, 0
    # The tag's place takes no account of a checksum in some encoders.
    for place in (header.info, header.info - 2):
        if frame[place : place + 4] in (b"Xing", b"Info"):
            promised = int.from_bytes(frame[place + 8 : place + 12], "big") if frame[place + 7] & 1 else 0
            return True, promised
    return False, 0


def _complete(file: BinaryIO, run: Run) -> None:
    """Gives a run a head that says how many frames it has, unless its own first frame does."""
    file.seek(run.start)
    begin = file.read(4)
    header = parse(begin)
    if run.frames == run.promised or header is None or header.format[1] != LAYER_III:
        return
    if run.tagged:
        run.start += header.length  # the head takes its place
    # The same format at its highest rate, so that there is room; without a checksum.
    bits = int.from_bytes(begin, "big") & ~(0xF << 12 | 1 << 9) | 14 << 12 | 1 << 16
    own = parse(bits.to_bytes(4, "big"))
    assert own is not None
    tag = b"Info" + (1).to_bytes(4, "big") + run.frames.to_bytes(4, "big")
    run.head = (bits.to_bytes(4, "big") + bytes(own.info - 4) + tag).ljust(own.length, b"\0")
