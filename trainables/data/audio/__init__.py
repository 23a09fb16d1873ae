"""Reads audio files: the one way for preparing, transcribing and the served model."""

from trainables.data.audio.reading import Limits, check_audio, mono, read_audio

__all__ = ["Limits", "check_audio", "mono", "read_audio"]
