"""The commands `platform schema`, `plan`, `sweep` and `train`, about spaces and the trials that they become."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from asr_platform.cli.completion import spaces, sweep_names
from asr_platform.cli.options.parameters import PATH_OR_NAME, Finite
from asr_platform.cli.options.settings import Caps, Continuation, Ending, SweepSize, options
from asr_platform.cli.options.shared import (
    DATA,
    INIT_FROM,
    INTERRUPTED,
    NOTIFY,
    OPTIONAL_DATA,
    TRACKING_URI,
    console,
    follow,
    json_option,
    platform,
    store_of_new,
)
from trainables.bounds import HIGHEST_PRICE, MOST_WORKERS
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.tuning.sweep_run import Outcome
    from search_spaces.space import Space
    from trainables.data.corpus import Corpus


@click.command()
def schema() -> None:
    """Prints the JSON schema of spaces, for editors.

    Save it as space.schema.json. An editor with the YAML language server completes and checks the keys of a space whose
    first line is "# yaml-language-server: $schema=space.schema.json".

    \b
    For example:
      platform schema
    """
    from search_spaces.schema import space_schema

    click.echo(json.dumps(space_schema(), indent=2, ensure_ascii=False))


@click.command()
@click.argument("space", type=PATH_OR_NAME, required=False, shell_complete=spaces)
@DATA
@options(SweepSize)
@INIT_FROM
@click.option("--no-profile", is_flag=True, help="Train nothing; hours, memory and disk are not estimated.")
@click.option("--nodes", metavar="N", type=click.IntRange(1, MOST_WORKERS),
              help="Plan for so many machines like this one (or the cluster's largest), and for fewer.")  # fmt: skip
@click.option("--price", metavar="X", type=Finite(0, HIGHEST_PRICE), help="Price of a node for an hour.")
@json_option("A JSON object.")
@click.pass_obj
def plan(
    home: Path, space: str | None, data: Path, init_from: Path | None, no_profile: bool, nodes: int | None,
    price: float | None, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Estimates time, memory and disk space of a sweep of SPACE.

    Without SPACE, of the space that `platform sweep` would choose. The cheapest and the most expensive configuration
    are trained for seconds on this machine, and then deleted. Give the options that the sweep will have. The plan is
    kept in the home, and shown with the sweep in MLflow. --nodes says what the sweep takes on a cluster that is not
    there yet, and from how many nodes on more are of no use.

    \b
    For example:
      platform plan digits --data corpora/digits --trials 8
    """
    from asr_platform.cli.tables.monitoring import print_plan
    from asr_platform.monitoring.plan import Nodes
    from asr_platform.monitoring.plan import plan as make_plan
    from asr_platform.storage.home import Home

    size = SweepSize(**given)
    planned, corpus = _space_and_corpus(space, data, size, init_from)
    place = None if no_profile else Home.at(home)
    wished = Nodes.asked(nodes, price)
    found = make_plan(planned, corpus, size.trials, size.cluster_options(), not no_profile, wished)
    text = json.dumps(asdict(found), indent=2)
    if place:
        place.keep_plan(planned.text, corpus.hash, text)
    if as_json:
        click.echo(text)
    else:
        print_plan(Console(), found)


FAILED, NO_MODEL = 1, 1  # exit codes


@click.command()
@click.argument("space", type=PATH_OR_NAME, required=False, shell_complete=spaces)
@OPTIONAL_DATA
@click.option("--name", help="The sweep's name; default: the space's, with a number.")
@options(SweepSize)
@options(Caps)
@options(Ending)
@INIT_FROM
@click.option("--warm-start", metavar="NAME", multiple=True, shell_complete=sweep_names,
              help="Let the sampler also learn from this earlier sweep; may be repeated.")  # fmt: skip
@click.option("--resume", metavar="NAME", shell_complete=sweep_names,
              help="Continue this sweep, with a wider SPACE, more --trials or higher caps.")  # fmt: skip
@TRACKING_URI
@NOTIFY
@click.pass_obj
def sweep(
    home: Path, space: str | None, data: Path | None, name: str | None, init_from: Path | None,
    warm_start: tuple[str, ...], resume: str | None, tracking_uri: str | None, notify: tuple[str, ...],
    tune_decoding: bool, **given: Any,
) -> None:  # fmt: skip
    """Searches SPACE for the model with the lowest validation CER.

    SPACE is a YAML file, or the name of a shipped space, such as digits. Without it, a shipped space is chosen by the
    hours of speech and by the machine. A sweep that reaches a cap on hours or disk space (default: the limits of the
    space) stops cleanly, and can be continued with higher caps. In the end the decoding options of the best model are
    tuned on the validation split, for 3 minutes at most.

    \b
    For example:
      platform sweep --data corpora/mine
      platform sweep digits --data corpora/digits --trials 8 --notify bell
      platform sweep --resume digits-1 --trials 16
    """
    from asr_platform.storage.home import Home
    from asr_platform.storage.store_address import checked_uri
    from asr_platform.tuning import sweep as sweeps
    from search_spaces.reader import load_space

    limits = Caps(**{key: given.pop(key) for key in Caps.model_fields}).limits
    size = SweepSize(**given)
    if resume is not None:
        fixed = size.model_dump(exclude={*Continuation.model_fields}).values()
        if warm_start or any(value is not None for value in (data, name, init_from, *fixed)):
            raise InputError(
                "--resume goes on as the sweep began",
                "Give it at most --notify, SPACE, caps, --trials, --address and --tracking-uri.",
            )
        view, place, wider = follow(console(), notify), Home.existing(home), load_space(space) if space else None
        store = checked_uri(tracking_uri) if tracking_uri else None
        _close(sweeps.resume(place, resume, size.trials, limits, size.address, view, wider, store, tune_decoding))
        return
    if not data:
        raise InputError("sweep needs --data", "For example: platform sweep --data corpora/digits.")
    searched, corpus = _space_and_corpus(space, data, size, init_from)
    how = replace(size.cluster_options(store_of_new(tracking_uri)), tune_decoding=tune_decoding)
    view = follow(console(), notify)
    _close(sweeps.start(Home.at(home), searched.with_limits(limits), corpus, name, size.trials, how, view, warm_start))


def _space_and_corpus(space: str | None, data: Path, size: SweepSize, init_from: Path | None) -> tuple[Space, Corpus]:
    """The search space and the corpus of a command.

    Without a space, it is the shipped one for the corpus and the cluster, or with `init_from` one with models of that
    shape. Why it was chosen is printed on standard error.
    """
    from asr_platform.tuning.first_space import space_for
    from search_spaces.reader import load_space
    from trainables.data.corpus import Corpus

    named = load_space(space) if space else None  # a mistake in it is told before those of the corpus
    corpus = Corpus.open(data)
    if named is None:
        selected = space_for(corpus, size.address, init_from)
        click.echo(f"space {selected.space.name}: {selected.reason}", err=True)
        named = selected.space
    return named.with_epochs(size.epochs).with_initial_model(init_from), corpus


@click.command()
@click.argument("source", type=PATH_OR_NAME, metavar="[SPACE_OR_CONFIG]", required=False, shell_complete=spaces)
@DATA
@click.option("--from", "origin", metavar="NAME[:TRIAL]", shell_complete=sweep_names,
              help="Train the configuration of this sweep's best trial, or of this trial.")  # fmt: skip
@click.option("--name", help="The run's name; default: the configuration's, with a number.")
@click.option("--workers", "workers_per_trial", metavar="N", type=click.IntRange(1, MOST_WORKERS),
              help="Ray Train workers; default: one for each GPU, or 1.")  # fmt: skip
@options(SweepSize, ["epochs", "min_workers", "max_workers", "gpus_per_worker", "accelerator_type", "address"])
@options(Ending)
@INIT_FROM
@TRACKING_URI
@NOTIFY
@click.pass_obj
def train(
    home: Path, source: str | None, data: Path, origin: str | None, name: str | None, init_from: Path | None,
    tracking_uri: str | None, notify: tuple[str, ...], tune_decoding: bool, **given: Any,
) -> None:  # fmt: skip
    """Trains one model at full length on the whole machine.

    SOURCE is a configuration file, or a search space, whose base is trained; --from takes the configuration of a trial
    instead. The training is a sweep of one trial: it is listed, logged and resumed like any sweep.

    \b
    For example:
      platform train digits --data corpora/digits
      platform train --from digits-1 --data corpora/digits --epochs 30
    """
    from asr_platform.storage.home import Home
    from asr_platform.tuning.single import single
    from asr_platform.tuning.sweep import start
    from trainables.data.corpus import Corpus

    if bool(source) == bool(origin):
        raise InputError("train needs a SPACE_OR_CONFIG or --from, one of the two", "See platform train --help.")
    size = SweepSize(**given)
    space = single(home, source, origin, size.epochs).with_initial_model(init_from)
    how = replace(size.cluster_options(store_of_new(tracking_uri)), alone=True, tune_decoding=tune_decoding)
    view, corpus = follow(console(), notify), Corpus.open(data)
    _close(start(Home.at(home), space, corpus, name, None, how, view))


def _close(outcome: Outcome) -> None:
    """Prints the leaderboard and the next commands, and exits with a code that tells how the sweep ended.

    Output is dropped if the terminal or pipe has been closed; the exit code stays.
    """
    from asr_platform.analysis.leaderboard import ranked
    from asr_platform.analysis.learning import REMEDIES, nothing_learned
    from asr_platform.cli.printing import lasting, say
    from asr_platform.cli.tables.leaderboard import print_leaderboard

    out = lasting(console())
    untrained = range(len(outcome.trials))
    print_leaderboard(out, outcome.trials, outcome.intervals, outcome.objectives, untrained)
    model = os.path.relpath(outcome.model) if outcome.model else None
    go_on = f"{platform()} sweep --resume {outcome.name}"
    if outcome.state == "stopped":
        lines = [f"stopped; go on with: {go_on}"]
    elif model is None:
        lines = ["no model: no trial finished an epoch"]
    else:
        data = f"--data {shlex.quote(str(outcome.corpus.path))} --split {outcome.split}"
        lines = [
            f"model:           {model}",
            f"see it:          {os.path.join(model, 'plots')}",
            f"score it:        platform evaluate {shlex.quote(model)} {data}",
            _use(outcome, shlex.quote(model)),
            *(_decoding(outcome.model) or _untuned(outcome, shlex.quote(model))),
            f"why it is best:  {platform()} report {outcome.name}",
            f"compare trials:  {platform()} ui",
            _registered(outcome),
        ]
        if unlearned := nothing_learned(ranked(outcome.trials)[0].best):
            lines = [f"nothing learned: {unlearned}", *lines[:2], *(f"try:             {one}" for one in REMEDIES)]
    if outcome.state == "paused":
        lines.append(f"{outcome.reason}; {platform()} unpause {outcome.name} TRIAL, then {go_on}")
    if outcome.state == "capped":
        lines.append(f"stopped: {outcome.reason}; with more of them, go on: {go_on}")
    if outcome.state == "failed":
        lines += [f"stopped: {outcome.reason}", f"go on with: {go_on}"]
    for line in lines:
        say(out, line)
    if outcome.state == "stopped":
        sys.exit(INTERRUPTED)
    if outcome.state == "failed":
        sys.exit(FAILED)
    if model is None:
        sys.exit(NO_MODEL)


def _decoding(model: Path | None) -> list[str]:
    """Lines with the tuned decoding options of a model, and the CERs of greedy search and of the options."""
    from trainables.inference.decoding_options import in_words
    from trainables.inference.model_directory import read_decoding

    own = read_decoding(model) if model else None
    if own is None or own.tuning is None:
        return []
    found = own.tuning
    return [
        f"decoding:        greedy {found.greedy}, tuned {found.tuned}, on {found.utterances_text}",
        *([f"                 {found.test}"] if found.test else []),
        f"                 {in_words(own.decoding)}",
    ]


def _untuned(outcome: Outcome, model: str) -> list[str]:
    """How to tune the decoding of the best recogniser of a sweep that ended early; a finished sweep has done so."""
    if outcome.state == "finished" or not _recognises(outcome):
        return []
    return [f"tune decoding:   platform tune-decoding {model} --data {shlex.quote(str(outcome.corpus.path))}"]


def _registered(outcome: Outcome) -> str:
    if outcome.registered:
        return f"in the registry: {outcome.registered}"
    return f"not registered:  once MLflow can be written, {platform()} doctor {outcome.name} --repair"


def _use(outcome: Outcome, model: str) -> str:
    if _recognises(outcome):
        return f"transcribe:      platform transcribe {model} FILE.wav"
    return f"let it help:     platform evaluate RECOGNISER --language-model {model} --lm-weight 0.3 ..."


def _recognises(outcome: Outcome) -> bool:
    """Whether the models of a sweep are recognisers, not language models."""
    from trainables.evaluation.metrics import objective

    return any(trial.best and objective(trial.best) == "val_cer" for trial in outcome.trials)
