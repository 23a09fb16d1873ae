"""A corpus as an HTML page: its facts, and utterances to hear and to see."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from asr_platform.reporting.data_uri import data_uri, mp3
from asr_platform.reporting.page import rendered
from trainables.data.corpus import Corpus, Split
from trainables.data.features import SAMPLE_RATE
from trainables.data.inspection.signals import audio_of
from trainables.data.inspection.summary import Inspection, SplitFacts, UtteranceFacts, evenly_spaced, utterance_facts
from trainables.folders import written_whole

SAMPLED = 8  # utterances of a split at equal distances, beside those that stand out
WIDEST = 900  # pixels of a picture: several frames of a longer utterance share a column
MOST_HEARD_SECONDS = 60  # of a longer utterance, its beginning


@dataclass(frozen=True)
class Card:
    """An utterance on the page.

    Args:
        reasons: why it is shown, such as "longest".
        picture: log-mel features as a data URI (PNG), with time from left to right and low frequencies at the bottom.
        audio: MP3 as a data URI; empty where the audio is not there.
    """

    facts: UtteranceFacts
    reasons: list[str]
    picture: str
    audio: str


def write_page(corpus: Corpus, found: Inspection, path: Path) -> None:
    """Writes the page, which needs no other file; an error leaves no partial file.

    Raises:
        InputError: the file cannot be written, or a split of the corpus is damaged.
    """
    with written_whole(path) as file:
        cards = {facts.name: list(_cards(corpus, facts)) for facts in found.splits}
        file.write(rendered("inspection.html.jinja", found=found, cards=cards, hours=lambda seconds: seconds / 3600))


def _cards(corpus: Corpus, facts: SplitFacts) -> Iterable[Card]:
    """Yields the utterances of a split that stand out, then those at equal distances."""
    split = corpus.split(facts.name)
    reasons: dict[int, list[str]] = {}
    groups = {"longest": facts.longest, "shortest": facts.shortest, "most silence": facts.quietest}
    for reason, members in groups.items():
        for one in members:
            reasons.setdefault(one.place, []).append(reason)
    for id in facts.audio.examples if facts.audio else []:
        reasons.setdefault(split.ids.index(id), []).append("clipped")
    for place in evenly_spaced(len(split), SAMPLED):
        reasons.setdefault(place, ["sample"])
    for place, why in reasons.items():
        samples = audio_of(split, place)
        sound = "" if samples is None else mp3(samples[: MOST_HEARD_SECONDS * SAMPLE_RATE])
        yield Card(utterance_facts(corpus, split, place), why, _picture(split, place), sound)


def _picture(split: Split, place: int) -> str:
    features_TF = split.utterance(place).numpy().astype(np.float32)
    columns = np.array_split(features_TF, min(len(features_TF), WIDEST))
    image_FT = np.stack([column.mean(axis=0) for column in columns], axis=1)
    content = io.BytesIO()
    imsave(content, image_FT, origin="lower", cmap="magma", format="png")
    return data_uri("image/png", content.getvalue())
