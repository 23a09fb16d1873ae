"""What may vary: a base configuration, the keys that vary, and the limits of a sweep, read from one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from search_spaces.distributions import (
    Choice,
    Fit,
    Float,
    Report,
    Suggest,
    Variable,
    check_condition,
    from_text,
    is_fit,
    is_structured,
    read_distribution,
    read_fit,
    read_when,
)
from search_spaces.settings import Limits, Settings
from search_spaces.start import complete_entry, read_entries
from trainables.config import Config
from trainables.config_parsing import flatten, known_keys, parse_config, problems, unflatten
from trainables.document import Document
from trainables.errors import InputError

SHIPPED = Path(__file__).parent
DEFAULTS = dict(flatten(Config().model_dump()))
"""Every key of a configuration that a space may set or vary, such as `model.dropout`, with its default."""

FIXED = {
    "training.epochs": "early stopping compares trials of one length; set the top-level epochs",
    "model.kind": "recognisers and language models cannot be ranked together; set it in base",
}
"""Keys that a sweep's trials must share, and why."""

FF_RATIO = "model.ff_expansion"
PATHS = ("data.text", "pretrained.decoder", "decoding.language_model")

KEYS = (
    "base",  # a configuration; what it leaves out has the default
    "vary",  # keys that vary, such as model.dropout, and how
    "start",  # configurations tried first: values of keys, over the base
    *Settings.model_fields,
)


@dataclass(frozen=True)
class Space:
    """One search space.

    Attributes:
        source: the file it was read from, for messages.
        text: that file's content.
        base: what the base configuration says (a valid one on its own), as `{"model.dropout": 0.1}`.
        vary: how keys vary, each behind the keys that its condition names.
        fit: the width that is solved for when all these have values, so that the model fills the budget.
        start: what is tried before the sampler's proposals: values of all active varied keys, and of the fitted width
            where the space says one.
        settings: how to search, when to stop a trial, how much to spend.
    """

    source: str
    text: str
    base: Mapping[str, Any]
    vary: Mapping[str, Variable]
    fit: Fit | None
    start: tuple[Mapping[str, Any], ...]
    settings: Settings

    @classmethod
    def load(cls, name_or_path: str) -> Space:
        """Reads a space file, by path or by the name of a shipped one.

        Raises:
            InputError: there is no such file, or it holds mistakes (all of them are named).
        """
        path = Path(name_or_path)
        if not path.is_file() and name_or_path in shipped():
            path = SHIPPED / f"{name_or_path}.yaml"
        elif not path.is_file():
            raise InputError(
                f"{name_or_path}: no such search space", f"Give a YAML file, or a shipped one: {', '.join(shipped())}."
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable: {error}", "Give a search space in YAML (UTF-8).") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str, folder: Path | None = None) -> Space:
        """Reads a space from YAML.

        Args:
            source: the file to name in the InputError that lists every mistake.
            folder: what paths in the space are relative to; default: the working directory.
        """
        document = Document(text, source)
        fields = _read(document)
        entries = fields.pop("entries", [])
        document.check()  # an entry of `start` lies over the base and within what varies: now these are right
        space = cls(source=source, text=text, start=(), **fields)
        start = [complete_entry(space, place, entry, document.mistake) for place, entry in entries]
        document.check()
        space = replace(space, start=tuple(start))
        return _located(space, (folder or Path.cwd()).absolute())

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return Path(self.source).stem

    def lasting(self, epochs: int | None) -> Space:
        """This space with trials of another length; None leaves it as it is."""
        return self if epochs is None else replace(self, settings=self.settings.lasting(epochs))

    @property
    def comparable_settings(self) -> Settings:
        """The settings with ASHA's grace in a unit that means the same for every trial.

        An update holds more audio in one trial than in another where batches or accumulation vary. So updates become
        the hours of audio that so many updates of the base hold, padding aside. Language models, which have no audio,
        keep them.
        """
        training, asha = self.config({}).training, self.settings.asha
        if asha.unit != "updates" or asha.grace is None or self.base.get("model.kind") == "language_model":
            return self.settings
        hours = asha.grace * training.batch_seconds * training.accumulation / 3600
        changed = asha.model_copy(update={"unit": "hours", "grace": hours})
        return self.settings.model_copy(update={"asha": changed})

    def limited(self, limits: Limits) -> Space:
        """This space with those of these limits that there are in place of its own."""
        settings = self.settings.model_copy(update={"limits": self.settings.limits.raised(limits)})
        return replace(self, settings=settings)

    def propose(self, suggest: Suggest) -> dict[str, Any]:
        """Asks `suggest` for a value of every key that varies, leaving out those whose condition does not hold.

        The fitted width is not among them: `budget.complete` adds it.
        A list (`optimizer.betas`, `training.stages`) is its JSON text here, as in all that comes from a sampler.
        """
        values: dict[str, Any] = {}
        for key, variable in self.vary.items():
            if self.is_active(key, values):
                values[key] = variable.distribution.suggest(key, suggest)
        return values

    def is_active(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether the condition of `key` holds, and those of the keys it names, given the varied keys' values."""
        variable = self.vary.get(key)
        return variable is None or all(
            self.is_active(parent, values) and self.value(parent, values) in allowed
            for parent, allowed in variable.when.items()
        )

    def value(self, key: str, values: Mapping[str, Any]) -> Any:
        """The value of a key: that in `values`, else the base's; the default where its condition does not hold."""
        default = DEFAULTS[key]
        return values.get(key, self.base.get(key, default)) if self.is_active(key, values) else default

    def config(self, values: Mapping[str, Any]) -> Config:
        """The whole configuration of a proposal: its values over the base; without values, the base alone.

        A key whose condition does not hold has its default, whatever the base or `values` say of it.

        Raises:
            InputError: the values do not go together.
        """
        read = {key: from_text(value) if key in STRUCTURED else value for key, value in values.items()}
        leaves = {**self.base, **read, "training.epochs": self.settings.epochs}
        active = {key: value for key, value in leaves.items() if self.is_active(key, values)}
        return parse_config(unflatten(active), f"{self.source}: proposal")


@dataclass(frozen=True)
class Proposal:
    """What a trial would be.

    Args:
        parameters: their exact number.
        fitted: the width that fills the budget, by its key; empty where the space fits none.
    """

    config: Config
    parameters: int
    fitted: Mapping[str, int] = field(default_factory=dict)


def shipped() -> list[str]:
    """Names of the spaces that lie beside this file."""
    return sorted(path.stem for path in SHIPPED.glob("[!.]*.yaml"))


def is_space(path: Path) -> bool:
    """Whether a YAML file has a search space's keys, rather than a configuration's."""
    try:
        tree = Document(path.read_text(encoding="utf-8"), str(path)).tree
    except (OSError, ValueError):  # among them InputError
        return False
    return isinstance(tree, Mapping) and any(key in KEYS for key in tree)


def _located(space: Space, folder: Path) -> Space:
    """The space with absolute paths: workers have working directories of their own."""

    def located(value: Any) -> Any:
        return str(folder / value) if isinstance(value, str) else value

    base = {key: located(value) if key in PATHS else value for key, value in space.base.items()}
    vary = {}
    for key, variable in space.vary.items():
        when = {
            parent: tuple(map(located, values)) if parent in PATHS else values
            for parent, values in variable.when.items()
        }
        choices = variable.distribution
        if key in PATHS and isinstance(choices, Choice):
            choices = replace(choices, values=tuple(map(located, choices.values)))
        vary[key] = replace(variable, distribution=choices, when=when)
    start = tuple({key: located(value) if key in PATHS else value for key, value in one.items()} for one in space.start)
    return replace(space, base=base, vary=vary, start=start)


def _read(document: Document) -> dict[str, Any]:
    """The fields of a space; mistakes are noted in the document."""
    tree = document.tree
    if not isinstance(tree, Mapping):
        document.mistake("search space", f"must be a mapping with the keys {', '.join(KEYS)}")
        return {}
    for key in tree:
        if key not in KEYS:
            document.mistake(str(key), f"unknown key; the keys here are {', '.join(KEYS)}")
    settings = _read_settings(document, {key: tree[key] for key in Settings.model_fields if key in tree})
    base = _read_base(document, _mapping(document, tree, "base"), settings.epochs)
    varied = _mapping(document, tree, "vary")
    fit = _read_fit(document, varied, base)
    vary = _read_vary(document, varied)
    asha = settings.asha
    if base.get("model.kind") == "language_model" and (asha.metric is not None or asha.unit == "hours"):
        document.mistake(
            "asha", "a language model has neither a CER nor hours of audio: leave out metric, count updates"
        )
    if settings.sampler == "grid":
        for key, variable in vary.items():
            if isinstance(variable.distribution, Float) and variable.distribution.step is None:
                document.mistake(
                    f"vary.{key}", "the grid sampler needs a step (float) or values (choice) to go through"
                )
    if "real_time_factor" in settings.objectives and base.get("model.kind") == "language_model":
        document.mistake("objectives", "a language model has no real_time_factor: it decodes nothing")
    entries = read_entries(tree.get("start"), varied, document.mistake)
    return {"base": base, "vary": vary, "fit": fit, "entries": entries, "settings": settings}


def _read_settings(document: Document, tree: Mapping[str, Any]) -> Settings:
    """The settings; a wrong one has its default, so that the rest can be checked for more mistakes."""
    wrong = _refusals(Settings, tree)
    left = {key: value for key, value in flatten(tree) if not any(f"{key}.".startswith(f"{bad}.") for bad, _ in wrong)}
    settings = Settings.model_validate(unflatten(left))
    for key, reason in [*wrong, *settings.conflicts()]:
        document.mistake(key, reason)
    return settings


def _mapping(document: Document, tree: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    value = tree.get(key)
    if value is not None and not isinstance(value, Mapping):
        document.mistake(key, f"must be a mapping of keys to values, but got {value!r}")
    return value if isinstance(value, Mapping) else {}


def _read_base(document: Document, tree: Mapping[Any, Any], epochs: int) -> dict[str, Any]:
    """What the base says, as leaves; with the space's epochs it must be a configuration on its own."""
    training = tree.get("training", {})
    if isinstance(training, Mapping):
        if "epochs" in training:
            reason = "belongs at the top level, as epochs, which early stopping reads too"
            document.mistake("base.training.epochs", reason)
        tree = {**tree, "training": {**training, "epochs": epochs}}
    for key, reason in _refusals(Config, tree):
        document.mistake(f"base.{key}".removesuffix(".configuration"), reason)
    return {key: value for key, value in flatten(tree) if key != "training.epochs"}


def _read_fit(document: Document, tree: Mapping[Any, Any], base: Mapping[str, Any]) -> Fit | None:
    """The one width of those that vary which the budget decides."""
    found = None
    for key in (key for key, entry in tree.items() if is_fit(entry) and _can_vary(key)):
        report = partial(document.mistake, f"vary.{key}")
        fit = read_fit(key, tree[key], report)
        if found is not None:
            report(f"one width can be fitted, and {found.key} is already")
        elif key == "model.feed_forward" and (base.get(FF_RATIO) is not None or FF_RATIO in tree):
            report(f"{FF_RATIO} stands in its place: leave that out, or fit model.d_model")
        elif fit is not None:
            _check_values(key, [width for width in (fit.low, fit.high) if width is not None], report)
        found = found or fit
    return found


def _read_vary(document: Document, tree: Mapping[Any, Any]) -> dict[str, Variable]:
    """The varied keys, the fitted one aside, in an order in which conditions come after what they name."""
    variables: dict[str, Variable] = {}
    for key, entry in tree.items():
        report = partial(document.mistake, f"vary.{key}")
        if not _can_vary(key):
            report(_why_not_varied(str(key)))
            continue
        if is_fit(entry):
            continue
        distribution = read_distribution(entry, TYPES[key], report)
        when = read_when(entry["when"], report) if isinstance(entry, Mapping) and "when" in entry else {}
        if distribution is None:
            continue
        _check_values(key, distribution.candidates(), report)
        variables[key] = Variable(distribution, when)
    for key, variable in variables.items():
        report = partial(document.mistake, f"vary.{key}")
        for parent, values in variable.when.items():
            if parent in variables:
                check_condition(values, variables[parent].distribution, parent, report)
            elif is_fit(tree.get(parent)):
                report(f"when names {parent}, which is fitted after all others have their values")
            elif parent not in tree:
                report(f"when names {parent}, which does not vary; what varies is {', '.join(map(str, tree))}")
    return _ordered(document, variables)


def _can_vary(key: Any) -> bool:
    return key in TYPES and key not in FIXED


def _check_values(key: str, values: Sequence[Any], report: Report) -> None:
    """Reports values that no configuration has."""
    for value in values:
        for name, reason in _refusals(Config, unflatten({key: from_text(value) if key in STRUCTURED else value})):
            if f"{name}.".startswith(f"{key}."):
                report(reason)


def _why_not_varied(key: str) -> str:
    if key in FIXED:
        return f"cannot vary: {FIXED[key]}"
    section = key.split(".")[0]
    if section in Config.model_fields:
        return f"unknown key; the keys here are {', '.join(f'{section}.{name}' for name in known_keys((section,)))}"
    return f"unknown key; give a section and its key, such as model.dropout; the sections are {', '.join(known_keys())}"


def _ordered(document: Document, variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """The order of the file, with each key behind those that its condition names."""
    ordered: dict[str, Variable] = {}
    waiting = dict(variables)
    while waiting:
        ready = [key for key, variable in waiting.items() if not any(parent in waiting for parent in variable.when)]
        for key in ready:
            ordered[key] = waiting.pop(key)
        if not ready:
            for key in waiting:
                document.mistake(f"vary.{key}", f"when is circular: it depends on itself through {', '.join(waiting)}")
            break
    return ordered


def _refusals(section: type[BaseModel], tree: Mapping[Any, Any]) -> list[tuple[str, str]]:
    """What a section refuses in a tree of values: keys and reasons."""
    try:
        section.model_validate(tree)
    except ValidationError as error:
        return [(key, reason) for key, _, reason in (line.partition(": ") for line in problems(error, section))]
    return []


def _leaf_types(section: type[BaseModel], path: str = "") -> dict[str, Any]:
    """The type of every key of a configuration."""
    types: dict[str, Any] = {}
    for name, leaf in section.model_fields.items():
        if isinstance(leaf.annotation, type) and issubclass(leaf.annotation, BaseModel):
            types |= _leaf_types(leaf.annotation, f"{path}{name}.")
        else:
            types[f"{path}{name}"] = leaf.annotation
    return types


TYPES = _leaf_types(Config)
STRUCTURED = frozenset(key for key, annotation in TYPES.items() if is_structured(annotation))
"""The keys whose values are lists."""
