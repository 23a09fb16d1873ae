"""Augmentation of the training features: on the device, in fixed shapes, drawn by (seed, epoch, utterance)."""

from trainables.data.augmentation.acoustics import EpochAcoustics
from trainables.data.augmentation.draws import generator
from trainables.data.augmentation.specaugment import (
    EpochMasks,
    EpochTiming,
    Timing,
    drawn_lengths,
    possible_lengths,
    stretched,
)

__all__ = [
    "EpochAcoustics",
    "EpochMasks",
    "EpochTiming",
    "Timing",
    "drawn_lengths",
    "generator",
    "possible_lengths",
    "stretched",
]
