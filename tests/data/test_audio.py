"""Audio files: rates and channels, parts, headers that do not know the length, joined files, and what is refused."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import KINDS, encoded, noise, read, tone

from trainables.data.audio import Limits, check_audio, read_audio
from trainables.data.features import SAMPLE_RATE
from trainables.errors import InputError


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_any_rate_and_two_channels_become_16_kHz_mono(tmp_path: Path, suffix: str, rate: int) -> None:
    left, right = tone(300, 0.5, rate), tone(800, 0.5, rate)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([left, right], axis=1), rate)
    samples = read_audio(tmp_path / f"a.{suffix}")
    expected = (tone(300, 0.5) + tone(800, 0.5)) / 2
    assert samples.dtype == np.float32 and abs(len(samples) - 8000) <= 1
    np.testing.assert_allclose(samples[500:7500], expected[500:7500], atol=5e-3)


def test_a_part_of_a_file(tmp_path: Path) -> None:
    audio = noise(16000)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", 0.25, 0.5), audio[4000:12000])
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", 0.25), audio[4000:])
    # A manifest's rounded duration may end a little after the file.
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", 0.5, 0.51), audio[8000:])


@pytest.mark.parametrize(("offset", "duration"), [(0.5, 0.6), (1.0, None), (2.0, None), (2.0, 1.0), (1.0, 0.01)])
def test_a_part_beyond_the_end(tmp_path: Path, offset: float, duration: float | None) -> None:
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000)
    with pytest.raises(InputError, match=r"a\.wav"):
        read_audio(tmp_path / "a.wav", offset, duration)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_truncated_audio_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    file = tmp_path / f"cut.{suffix}"
    soundfile.write(file, noise(16000), 16000)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=f"cut.{suffix}"):
        read_audio(file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, dtype=np.float32), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, 0], dtype=np.float32), 16000, subtype="FLOAT")
    for name, problem in {"text": "unreadable", "empty": "zero-length", "nan": "finite", "none": "no such"}.items():
        with pytest.raises(InputError, match=problem) as caught:
            read_audio(tmp_path / f"{name}.wav")
        assert f"{name}.wav" in caught.value.problem
        if name != "nan":  # which only decoding shows
            with pytest.raises(InputError) as at_once:
                check_audio(tmp_path / f"{name}.wav")
            assert at_once.value.args == caught.value.args


def test_a_codec_that_nobody_knows_is_refused() -> None:
    content = encoded(noise(1600), "wav")
    with pytest.raises(InputError, match="sent: no audio in a known codec"):
        read(content[:20] + b"\x77\x77" + content[22:])


# Headers that do not know the length


def with_length(wav: bytes, length: int) -> bytes:
    """A WAV file that promises so many bytes of samples."""
    riff = min(length + 36, 0xFFFF_FFFF) if length else 0
    return wav[:4] + struct.pack("<I", riff) + wav[8:40] + struct.pack("<I", length) + wav[44:]


# ffmpeg's and SoX's into a pipe (SoX's for frames of 2 and of 6 bytes), a recorder's that was killed
@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_F000, 0x7FFF_EFFC, 0])
def test_a_wav_without_a_length_is_read_to_its_end(length: int) -> None:
    content = with_length(encoded(noise(1600), "wav"), length)
    np.testing.assert_array_equal(read(content), read(encoded(noise(1600), "wav")))
    np.testing.assert_array_equal(read(content, 0.05), read(content)[800:])
    assert len(read(content + b"x")) == 1600  # half a sample


def test_a_wav_that_was_never_finished_is_refused() -> None:
    """A recorder that writes the header from time to time, and is killed: more samples follow than it says."""
    content = with_length(encoded(noise(16_000), "wav"), 8_000)
    with pytest.raises(InputError, match=r"sent: 24,000 bytes follow the samples .* the header was never finished"):
        read(content)


def test_what_follows_the_samples_of_a_wav_is_no_audio() -> None:
    content = encoded(noise(1600), "wav")
    chunk = b"LIST" + struct.pack("<I", 5000) + bytes(range(250)) * 20
    for behind in (chunk, bytes(9000), b"TAG" + b"x" * 9000, b"\1\2\3"):
        assert len(read(content + behind)) == 1600
    empty = encoded(noise(0), "wav")
    with pytest.raises(InputError, match="zero-length audio"):
        read(empty + chunk)


def test_a_flac_written_into_a_pipe_has_no_length() -> None:
    content = bytearray(encoded(noise(40_000), "flac"))
    whole = read(bytes(content))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    np.testing.assert_array_equal(read(bytes(content)), whole)
    np.testing.assert_array_equal(read(bytes(content), 0.5, 1.0), whole[8_000:24_000])
    np.testing.assert_array_equal(read(bytes(content), 2.0), whole[32_000:])
    np.testing.assert_array_equal(read(bytes(content), 1.0, 1.51), whole[16_000:])  # by rounding
    for offset, duration in ((2.0, 1.0), (3.0, None), (2.5, 0.01)):
        with pytest.raises(InputError, match=r"reaches beyond its 2\.50 s"):
            read(bytes(content), offset, duration)
    with pytest.raises(InputError, match="unreadable or truncated"):
        read(bytes(content)[:-1000])


@given(promised=st.integers(0, 2**36 - 1) | st.integers(1, 30_000))
@settings(max_examples=20)
def test_a_flac_is_read_to_its_end_or_refused(promised: int) -> None:
    content = bytearray(encoded(noise(20_000), "flac"))
    content[21:26] = ((content[21] >> 4) << 36 | promised).to_bytes(5, "big")
    if promised <= 20_000:
        assert len(read(bytes(content))) == 20_000
    else:
        with pytest.raises(InputError, match="truncated"):
            read(bytes(content))


def frames_of(mp3: bytes) -> list[bytes]:
    """The frames with sound of an MP3 file: without its first one, which describes the stream."""
    with av.open(io.BytesIO(mp3)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_without_a_number_of_frames(rate: int, channels: int) -> None:
    """Loud first frames would make libsndfile expect a longer file, and quiet ones a shorter one."""
    loud, quiet = np.stack([noise(2 * rate)] * channels, axis=1), np.zeros((2 * rate, channels))
    for samples in (np.concatenate([loud, quiet]), np.concatenate([quiet, loud])):
        content = io.BytesIO()
        soundfile.write(content, samples, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
        frames = frames_of(content.getvalue())
        # Fraunhofer's first frame: version 1, delay, quality, bytes, frames
        tag = b"VBRI" + struct.pack(">HHHII", 1, 0, 0, sum(map(len, frames)), len(frames))
        vbri = (frames[0][:4] + bytes(32) + tag).ljust(len(frames[0]), b"\0")
        for tags in (b"", b"ID3\x03\0\0\0\0\x01\0" + bytes(128), vbri):
            found = read(tags + b"".join(frames) + b"TAG" + bytes(125))
            seconds = len(frames) * (1152 if rate > 24_000 else 576) / rate
            assert len(found) / SAMPLE_RATE == pytest.approx(seconds, abs=1e-3)
            assert len(found) / SAMPLE_RATE == pytest.approx(4.0, abs=0.2)


def test_an_mp3_whose_first_frame_is_wrong() -> None:
    """An MP3 header's number of frames does not matter; fewer bytes than the header says are a truncated file."""
    content = encoded(noise(64_000), "mp3")
    place = max(content.find(b"Info"), content.find(b"Xing")) + 8
    frames, size = struct.unpack(">II", content[place : place + 8])
    for promised in (0, 1, frames // 2, frames - 1, frames + 1, 2 * frames):
        found = read(content[:place] + promised.to_bytes(4, "big") + content[place + 4 :])
        assert len(found) / SAMPLE_RATE == pytest.approx(4.0, abs=0.2), promised
    for promised in (0, 1, size - 1):
        found = read(content[: place + 4] + promised.to_bytes(4, "big") + content[place + 8 :])
        assert len(found) / SAMPLE_RATE == pytest.approx(4.0, abs=0.2), promised  # the encoder's padding may stay
    with pytest.raises(InputError, match="sent: truncated"):
        read(content[: place + 4] + (size + 1).to_bytes(4, "big") + content[place + 8 :])
    with pytest.raises(InputError, match="sent: truncated"):
        check_audio(io.BytesIO(content[:-1]), name="sent")


@pytest.mark.parametrize("tagged", [True, False])
def test_an_mp3_with_something_else_inside(tagged: bool) -> None:
    content = encoded(noise(64_000), "mp3")
    frames = frames_of(content)
    half = len(frames) // 2
    first = content[: content.index(frames[0])] if tagged else b""
    for between in (b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000), bytes(5000), b"\xff\xf3\x88", b"\xff" * 3000):
        found = read(first + b"".join(frames[:half]) + between + b"".join(frames[half:]))
        assert len(found) / SAMPLE_RATE == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize("length", [0, 2**40, 2**64 - 1])
def test_a_wav_of_64_bits_without_a_length_is_read_to_its_end(length: int) -> None:
    content = io.BytesIO()
    soundfile.write(content, noise(16_000), SAMPLE_RATE, format="RF64", subtype="PCM_16")
    whole = content.getvalue()
    place = whole.index(b"ds64") + 16
    samples = read(whole)
    assert len(samples) == 16_000
    unknown = whole[:place] + length.to_bytes(8, "little") + whole[place + 8 :]
    np.testing.assert_array_equal(read(unknown), samples)
    with pytest.raises(InputError, match="truncated"):
        read(whole[:-1000])


@pytest.mark.parametrize("format", ["AIFF", "AU", "W64", "CAF"])
def test_other_formats_are_read_and_not_in_part(format: str) -> None:
    content = io.BytesIO()
    soundfile.write(content, noise(16_000), SAMPLE_RATE, format=format, subtype="PCM_16")
    assert len(read(content.getvalue())) == 16_000
    with pytest.raises(InputError, match="truncated"):
        read(content.getvalue()[:-1000])
    if format in ("AIFF", "AU"):
        assert len(read(content.getvalue() + bytes(9000))) == 16_000
        with pytest.raises(InputError, match=r"9,000 bytes follow the samples .* never finished"):
            read(content.getvalue() + b"\1" * 9000)


# Several files in one


@pytest.mark.parametrize("kind", KINDS)
def test_joined_files_are_read_one_after_the_other(tmp_path: Path, kind: str) -> None:
    first, second = encoded(noise(32_000), kind), encoded(noise(16_000, seed=1), kind)
    apart = np.concatenate([read(first), read(second)])
    assert len(apart) / SAMPLE_RATE == pytest.approx(3.0, abs=2 * KINDS[kind][2])
    np.testing.assert_array_equal(read(first + second), apart)
    (tmp_path / f"joined.{kind}").write_bytes(first + second)
    np.testing.assert_array_equal(read_audio(tmp_path / f"joined.{kind}"), apart)
    np.testing.assert_array_equal(read_audio(tmp_path / f"joined.{kind}", 1.5, 1.0), apart[24_000:40_000])
    check_audio(tmp_path / f"joined.{kind}")
    with pytest.raises(InputError, match=f"joined.{kind}: offset 2.5"):
        read_audio(tmp_path / f"joined.{kind}", 2.5, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_joined_files_may_differ_in_rate_and_channels(kind: str) -> None:
    first = encoded(noise(16_000), kind, 8000)
    second = encoded(np.stack([noise(24_000), noise(24_000)], axis=1), kind, 24_000)
    np.testing.assert_array_equal(read(first + second), np.concatenate([read(first), read(second)]))


@pytest.mark.parametrize("kind", KINDS)
@given(kept=st.floats(0, 0.99))
@settings(max_examples=15)
def test_a_file_cut_anywhere_is_refused(kind: str, kept: float) -> None:
    content = encoded(noise(32_000), kind)
    cut = int(kept * len(content))
    if content[cut : cut + 4] == b"OggS":
        cut += 1  # between two pages, it is a stream that somebody stopped
    with pytest.raises(InputError, match="sent: "):
        read(content[:cut])


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_a_stream_cut_in_the_head_of_a_page_is_refused(kind: str) -> None:
    """In its first bytes, which are the same for all pages, as well as behind them."""
    content = encoded(noise(32_000), kind)
    pages = [match.start() for match in re.finditer(b"OggS", content)][1:]
    assert len(pages) > 1
    for cut in (page + taken for page in pages for taken in (1, 2, 3, 4, 26, 28)):
        with pytest.raises(InputError, match="sent: "):
            read(content[:cut])


@given(st.sampled_from(sorted(KINDS)), st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=20))))
@settings(max_examples=60)
def test_damaged_files_are_read_or_refused(kind: str, damage: list[tuple[int, bytes]]) -> None:
    content = bytearray(encoded(noise(8_000), kind))
    for place, replacement in damage:
        place %= len(content)
        content[place : place + len(replacement)] = replacement
    try:
        samples = read(bytes(content), limits=Limits(seconds=60))
    except InputError as error:
        assert error.problem.startswith("sent: ")
    else:
        assert samples.dtype == np.float32 and np.isfinite(samples).all()
