"""What methods of the Python interface take: spaces, corpora and options, checked as on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console

from asr_platform.cli.live import LiveDisplay
from asr_platform.cli.options.settings import Caps, Continuation, Ending, Epochs, Gpus, SweepSize, Workers
from asr_platform.cli.options.shared import WIDE
from asr_platform.storage.home import Home
from search_spaces.reader import load_space, parse_space
from search_spaces.space import Space
from trainables.config.parsing import problems
from trainables.data.corpus import Corpus
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.tuning.cluster import Options

Place = str | Path
AnySpace = str | Path | Mapping[str, Any]
"""A YAML file, the name of a shipped space, or the content of such a file."""
Checked = TypeVar("Checked", bound=BaseModel)


class NewSweep(SweepSize, Caps, Ending):
    """Size, caps and ending of a new sweep."""


class Training(Ending):
    """Length, resources and ending of the training of one model."""

    epochs: Epochs | None = None
    workers: Workers | None = None
    min_workers: Workers | None = None
    max_workers: Workers | None = None
    gpus_per_worker: Gpus | None = None
    accelerator_type: str | None = None
    address: str | None = None

    def cluster_options(self, tracking_uri: str | None) -> Options:
        """Options of the cluster, which the training has to itself."""
        size = SweepSize(
            workers_per_trial=self.workers, gpus_per_worker=self.gpus_per_worker, address=self.address,
            accelerator_type=self.accelerator_type, min_workers=self.min_workers, max_workers=self.max_workers,
        )  # fmt: skip
        return replace(size.cluster_options(tracking_uri), alone=True, tune_decoding=self.tune_decoding)


class ResumedSweep(Continuation, Caps, Ending):
    """Changed size, caps and ending of a resumed sweep."""


def checked(model: type[Checked], given: Mapping[str, Any]) -> Checked:
    """An instance of a pydantic model with the values `given`.

    Raises:
        InputError: a name is unknown, or a value is of another type or out of bounds; the message names all of them.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InputError("; ".join(problems(error, model)), "Correct them, or leave them out.") from None


def command_of(home: Home) -> str:
    """The command in hints, such as `platform --home /home/me/mlruns`."""
    return shlex.join(["platform", "--home", str(home.path)])


def display(home: Home) -> LiveDisplay:
    """Display of a running sweep; commands in its hints name the home by its absolute path."""
    console = Console()
    return LiveDisplay(console if console.is_terminal else Console(width=WIDE), command_of(home))


def space_and_corpus(
    space: AnySpace | None, data: Place, size: SweepSize, home: Home, init_from: Place | None
) -> tuple[Space, Corpus]:
    """A space and a corpus; without a space, one for the corpus, the cluster and `init_from`: a line says why.

    Raises:
        InputError: there is no such space or corpus, or one has mistakes.
    """
    from asr_platform.tuning.first_space import space_for

    folder = model_folder(init_from, home)
    named, corpus = None if space is None else read_space(space), Corpus.open(Path(data))
    if named is None:
        selected = space_for(corpus, size.address, folder)
        display(home).say(f"space {selected.space.name}: {selected.reason}")
        named = selected.space
    return named.with_epochs(size.epochs).with_initial_model(folder), corpus


def model_folder(model: Place | None, home: Home) -> Path | None:
    """Directory of a model, which is fetched if it is one in MLflow; None for None.

    Raises:
        InputError: MLflow has no such model.
    """
    from asr_platform.tracking.resolving import IN_MLFLOW, resolve_model

    if model is None:
        return None
    return resolve_model(home.path, str(model)) if str(model).startswith(IN_MLFLOW) else Path(model)


def read_space(space: AnySpace) -> Space:
    """A space from a file, a shipped name or a mapping.

    Raises:
        InputError: there is no such space, or it has mistakes.
    """
    if not isinstance(space, Mapping):
        return load_space(str(space))
    try:
        text = yaml.safe_dump(dict(space), sort_keys=False)
    except yaml.YAMLError as error:
        raise InputError(
            f"the space holds more than plain values: {error}", "Give what a YAML file could hold."
        ) from None
    return parse_space(text, "notebook.yaml")
