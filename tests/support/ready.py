"""A source without audio, in a module of its own: worker processes load it, and it should be quick to load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.data.features import FeatureRecipe
from trainables.data.utterance import Featurised


@dataclass(frozen=True)
class Ready:
    """Frames that all hold one value."""

    value: float = 0.0
    frames: int = 4

    def features(self, recipe: FeatureRecipe) -> Featurised:
        return np.full((self.frames, recipe.bins), self.value, np.float32), self.frames * recipe.hop_seconds
