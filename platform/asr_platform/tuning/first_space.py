"""The space of a first sweep, for which none was given."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from asr_platform.tuning.cluster import resources
from search_spaces.reader import load_space
from search_spaces.selection import fine_tuning_space, select_space
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.training.pretrained import load_initial_model


class FirstSpace(NamedTuple):
    """A space, and why it was chosen."""

    space: Space
    reason: str


def space_for(corpus: Corpus, address: str | None, init_from: Path | None = None) -> FirstSpace:
    """The space for a first sweep on a corpus, on the cluster at `address` or, for None, on this machine.

    Args:
        init_from: directory of a recogniser with whose weights the trials begin; they have its shape.

    Raises:
        InputError: `init_from` has no recogniser, the cluster cannot be reached, or the corpus has no training split.
    """
    if init_from is not None:
        space = fine_tuning_space(load_initial_model(str(init_from)).config)
        return FirstSpace(space, f"models of the shape of {init_from}, whose weights they begin with")
    hours = corpus.splits[corpus.training_name()].seconds / 3600
    with resources(address) as machine:
        name, reason = select_space(hours, machine.gpus)
    return FirstSpace(load_space(name), reason)
