"""Sections of the configuration on the training data: splits, features and their augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainables.bounds import LARGEST_WIDTH
from trainables.config.model import ConfigSection, Share


class Data(ConfigSection):
    """Splits and text to train on."""

    train: str | None = Field(None, description="training split; default: the only train*")
    validation: str | None = Field(None, description="validation split; default: dev-clean, or the only dev* or val*")
    folds: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="divide the training split's speakers into so many folds, and validate on those of one of them, "
        "which are not trained on; default: validate on a split",
    )
    fold: int = Field(1, ge=1, le=1000, description="the fold that is validated on, from 1 on")
    speed_perturbation: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="0.1: in each epoch, an utterance has 0.9, 1.0 or 1.1 times its speed, drawn at random",
    )
    text: str | None = Field(
        None,
        description="more text for a language model: a file (one text a line) or a folder of .npy files",
    )

    @model_validator(mode="after")
    def _folds_fit(self) -> Data:
        if self.folds and self.validation:
            raise ValueError(f"folds={self.folds} and validation={self.validation} exclude each other: leave out one")
        if self.fold > (self.folds or 1):
            why = f"is above folds={self.folds}: give at most that" if self.folds else "needs folds: set data.folds too"
            raise ValueError(f"fold={self.fold} {why}")
        return self


class Features(ConfigSection):
    """Preprocessing of the acoustic features."""

    normalization: Literal["global_mvn", "cepstral", "sliding", "none"] = Field(
        "global_mvn",
        description="mean and variance per mel bin: of the training split (global_mvn), of the utterance (cepstral), "
        "or the mean of the last 600 frames and the variance of the training split (sliding), or none",
    )
    dynamic_range: float | None = Field(
        None,
        gt=0,
        le=200,
        description="dB below the utterance's peak that are kept, so that quiet noise is equal; default: all",
    )
    num_feats: int | None = Field(
        None, ge=1, le=LARGEST_WIDTH, description="mel bins to keep, lowest first; default: all"
    )


class SpecAugment(ConfigSection):
    """SpecAugment (Park et al., 2019): masks and time warping of the training features."""

    frequency_masks: int = Field(0, ge=0, le=1000, description="frequency masks per utterance")
    frequency_width: int = Field(27, ge=0, le=LARGEST_WIDTH, description="largest frequency mask, in mel bins")
    time_masks: int = Field(0, ge=0, le=1000, description="time masks per utterance")
    time_width: Share = Field(0.05, description="largest time mask, as a share of the utterance")
    time_warp: int = Field(0, ge=0, le=1_000_000, description="largest shift of the warped point, in frames; 0: none")


class Augmentation(ConfigSection):
    """Other voices, rooms and noise: training features as other recordings of the same words could have had them."""

    vocal_tract: float = Field(
        0.0, ge=0, le=0.5, description="0.1: an utterance's frequencies are multiplied by 0.9 to 1.1, drawn at random"
    )
    gain: float = Field(0.0, ge=0, le=60, description="largest change of the level, in dB")
    tilt: float = Field(0.0, ge=0, le=60, description="largest change of the lowest and the highest mel bin, in dB")
    noise_share: Share = Field(0.0, description="share of the utterances with noise, in each epoch")
    noise_snr_low: float = Field(0.0, ge=-20, le=100, description="lowest signal-to-noise ratio, in dB")
    noise_snr_high: float = Field(30.0, ge=-20, le=100, description="highest signal-to-noise ratio, in dB")
    babble_share: Share = Field(
        0.3, description="share of the noise that is babble of three other utterances; the rest is coloured noise"
    )
    noise_folder: str | None = Field(
        None, description="a folder with recordings of noise, which half of the noise that is no babble is taken from"
    )
    reverberation_share: Share = Field(0.0, description="share of the utterances with reverberation, in each epoch")
    reverberation_seconds: float = Field(
        0.6, ge=0.1, le=10, description="longest time in which reverberation decays by 60 dB; the shortest is 0.1"
    )

    @model_validator(mode="after")
    def _low_below_high(self) -> Augmentation:
        if self.noise_snr_low > self.noise_snr_high:
            raise ValueError(f"noise_snr_low={self.noise_snr_low} is above noise_snr_high={self.noise_snr_high}")
        return self

    @property
    def changes(self) -> bool:
        """Whether any utterance is changed."""
        return any((self.vocal_tract, self.gain, self.tilt, self.noise_share, self.reverberation_share))
