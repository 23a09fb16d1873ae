"""Settings that are declared once, as fields of pydantic models with bounds and help, and the options made of them.

`options` makes click options of the fields; the Python interface validates with the models. Commands that only read do
without this module: the import of pydantic, and of the configuration's bounds, takes as long as half of their work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import BaseModel, BeforeValidator, Field

from asr_platform.cli.options.parameters import Finite
from asr_platform.cli.options.shared import Command
from search_spaces.settings import Limits, refuse_words
from trainables.bounds import MOST_EPOCHS, MOST_SEEDS, MOST_TRIALS, MOST_WORKERS
from trainables.config.model import ConfigSection
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.tuning.cluster import Options

NUMBER = BeforeValidator(refuse_words)  # last in each type, so that the bounds are in its JSON schema
Trials = Annotated[int, Field(ge=1, le=MOST_TRIALS), NUMBER]
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS), NUMBER]
Seeds = Annotated[int, Field(ge=1, le=MOST_SEEDS), NUMBER]
Workers = Annotated[int, Field(ge=1, le=MOST_WORKERS), NUMBER]
Gpus = Annotated[float, Field(ge=0, le=MOST_WORKERS), NUMBER]
Positive = Annotated[float, Field(gt=0), NUMBER]


class Continuation(ConfigSection):
    """Settings of a sweep that may change when it is resumed; None keeps the former value."""

    trials: Trials | None = Field(None, description="Number of trials; default: the space's.")
    address: str | None = Field(
        None, description="Address of a running Ray cluster; default: $RAY_ADDRESS, else local: this machine."
    )


class SweepSize(Continuation):
    """Size of a sweep, and resources of its trials; None: as the space says, or as much as the machine has."""

    epochs: Epochs | None = Field(None, description="Epochs of a full trial; default: the space's.")
    max_concurrent: Workers | None = Field(None, description="Trials at once; default: as many as fit.")
    workers_per_trial: Workers | None = Field(None, description="Ray Train workers; default: 1.")
    min_workers: Workers | None = Field(None, description="Least workers of a trial, which may have more; default: 1.")
    max_workers: Workers | None = Field(None, description="Most workers of a trial, as there is room; default: all.")
    gpus_per_worker: Gpus | None = Field(None, description="Default: 1 where there are GPUs, else 0.")
    accelerator_type: str | None = Field(None, description="Use the cluster's nodes with these alone, such as A100.")

    def cluster_options(self, tracking_uri: str | None = None) -> Options:
        """Options of the cluster for a sweep of this size that is logged to the MLflow store at `tracking_uri`.

        Raises:
            InputError: accelerators are to be chosen, and there is no cluster to join; or numbers of workers contradict
                each other.
        """
        from asr_platform.tuning.cluster import Options, chosen_address

        if self.accelerator_type and chosen_address(self.address) is None:
            raise InputError(f"--accelerator-type {self.accelerator_type}: for nodes of a cluster", "Give --address.")
        least, most = self.min_workers or 1, self.max_workers or MOST_WORKERS
        if least > most:
            raise InputError(f"--min-workers {least}: more than --max-workers {most}", "Lower one, or raise the other.")
        if self.workers_per_trial and (self.min_workers or self.max_workers):
            raise InputError(
                f"--workers-per-trial {self.workers_per_trial} (of train: --workers): a fixed number of workers",
                "Give it without --min-workers and --max-workers, or only these.",
            )
        return Options(
            self.max_concurrent,
            self.workers_per_trial,
            self.gpus_per_worker,
            self.address,
            tracking_uri=tracking_uri,
            accelerator_type=self.accelerator_type,
            min_workers=self.min_workers,
            max_workers=self.max_workers,
        )


class Caps(ConfigSection):
    """Spending caps of a sweep; None keeps the cap of the search space."""

    max_hours: Positive | None = Field(None, description="Wall time of all runs of the sweep together.")
    max_device_hours: Positive | None = Field(None, description="Training time of all trials' workers.")
    max_disk_gb: Positive | None = Field(None, description="10^9 bytes of the sweep's checkpoints.")

    @property
    def limits(self) -> Limits:
        """The caps as limits of a space."""
        return Limits(hours=self.max_hours, device_hours=self.max_device_hours, disk_gb=self.max_disk_gb)


class Ending(ConfigSection):
    """What is done when all trials of a sweep have ended."""

    tune_decoding: bool = Field(True, description="Leave the decoding options of the best model as they are.")


class Repetitions(ConfigSection):
    """Number of configurations to confirm, and number of seeds for each."""

    top: Trials = Field(3, description="Number of best configurations.")
    seeds: Seeds = Field(3, description="Number of seeds for each configuration.")


def options(model: type[BaseModel], only: Collection[str] = (), defaults: bool = True) -> Callable[[Command], Command]:
    """A decorator that gives a command one option for each field of a pydantic model.

    Each option's type, bounds and help are those of its field in the model's JSON schema. A field that is true by
    default becomes a flag `--no-NAME`, and its help says what the flag does.

    Args:
        only: names of the fields; empty: all fields.
        defaults: whether an option that is not given gets the default of its field; else None.
    """
    fields = model.model_json_schema()["properties"]

    def decorate(command: Command) -> Command:
        for name in reversed([*(only or fields)]):
            field = fields[name]
            default = field.get("default") if defaults else None
            if field.get("type") == "boolean":
                flag = f"--no-{name.replace('_', '-')}"
                command = click.option(flag, name, flag_value=False, default=True, help=field["description"])(command)
                continue
            kind = option_type(field)
            option = click.option(
                f"--{name.replace('_', '-')}",
                metavar={click.IntRange: "N", Finite: "X"}.get(type(kind)),
                type=kind,
                default=default,
                show_default=default is not None,
                help=field["description"],
            )
            command = option(command)
        return command

    return decorate


def option_type(field: dict[str, Any]) -> click.ParamType[Any]:
    """The click type of a field in a JSON schema: integer, number, choice of words or text; null is ignored."""
    (kind,) = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    if "enum" in kind:
        return click.Choice(kind["enum"])
    if kind["type"] == "string":
        return click.STRING
    low, high = kind.get("minimum", kind.get("exclusiveMinimum")), kind.get("maximum")
    if kind["type"] == "integer":
        return click.IntRange(low, high)
    return Finite(low, high, min_open="exclusiveMinimum" in kind)
