"""Reads a search space from YAML. All mistakes are reported at once, each with its line."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from search_spaces.distributions import Choice, Fit, Float, Variable, from_text
from search_spaces.kinds import KIND, conflicts, refused_values
from search_spaces.rules import Facts, violations
from search_spaces.settings import RENAMED, Settings
from search_spaces.space import DEFAULTS, STRUCTURED, TYPES, Space, plain
from search_spaces.vary import FIXED, check_condition, is_fit, read_distribution, read_fit, read_when, why_not_varied
from trainables.config.former_keys import FORMER_TYPES, REPLACING, former_key_notice
from trainables.config.parsing import flatten, problems, unflatten
from trainables.config.tree import Config
from trainables.document import Document
from trainables.errors import InputError

SHIPPED = Path(__file__).parent / "shipped"
PATHS = (
    "data.text", "augmentation.noise_folder", "pretrained.model", "pretrained.decoder", "decoding.language_model",
)  # fmt: skip

KEYS = (
    "base",  # a configuration; what it leaves out has the default
    "vary",  # keys that vary, such as model.dropout, and how
    "start",  # configurations tried first: values of keys, over the base
    *Settings.model_fields,
)


def load_space(name_or_path: str) -> Space:
    """Reads a space file, by path or by the name of a shipped one.

    Raises:
        InputError: the file does not exist, or has mistakes; the message lists all of them.
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
    return parse_space(text, str(path))


def parse_space(text: str, source: str, folder: Path | None = None) -> Space:
    """Reads a space from YAML text. A key under its former name is read with a FutureWarning.

    Args:
        source: name of the file in errors.
        folder: folder to which paths in the space are relative; default: the working directory. Paths are made
            absolute, since workers have other working directories.

    Raises:
        InputError: the text holds mistakes; the message lists all of them.
    """
    return _Reader(Document(text, source), (folder or Path.cwd()).absolute()).space(text)


def shipped() -> list[str]:
    """Names of the spaces that come with the platform, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("[!.]*.yaml"))


def is_space(path: Path) -> bool:
    """Whether a YAML file has keys of a search space, rather than of a configuration."""
    try:
        tree = Document(path.read_text(encoding="utf-8"), str(path)).tree
    except (OSError, ValueError):  # among them InputError
        return False
    return isinstance(tree, Mapping) and any(key in KEYS for key in tree)


class _Reader:
    """Builds a Space from a YAML document, and records mistakes in the document.

    Args:
        folder: folder to which paths in the space are relative.
    """

    def __init__(self, document: Document, folder: Path) -> None:
        self.document, self.folder = document, folder
        self.mistake = document.mistake

    def space(self, text: str) -> Space:
        tree = self._tree()
        settings = self._settings(tree)
        base = self._base(self._mapping(tree, "base"), settings.epochs)
        varied = self._mapping(tree, "vary")
        fit, vary = self._fit(varied, base), self._vary(varied)
        self._check_former_keys(base, varied)
        self._check_together(settings, base, vary)
        for key, reason in conflicts(vary, [fit.key] if fit else [], str(base.get(KIND, DEFAULTS[KIND]))):
            self.mistake(f"vary.{key}", reason)
        entries = self._entries(tree.get("start"), varied)
        self.document.check()  # entries of `start` can only be checked with a valid base and valid `vary`
        space = Space(self.document.source, text, base, vary, fit, (), settings)
        for place, reason in refused_values(space):
            self.mistake(place, reason)
        self.document.check()
        self._check_rules(space)
        space = replace(space, start=tuple(self._completed(space, place, entry) for place, entry in entries))
        self.document.check()
        return space

    def _tree(self) -> Mapping[Any, Any]:
        tree = self.document.tree
        if not isinstance(tree, Mapping):
            self.mistake("search space", f"must be a mapping with the keys {', '.join(KEYS)}")
            return {}
        for key in tree:
            if key not in KEYS:
                self.mistake(str(key), f"unknown key; the keys here are {', '.join(KEYS)}")
        return tree

    def _warn(self, place: str, text: str) -> None:
        line = f"{self.document.source}, line {self.document.line(place)}"
        warnings.warn(f"{line}: {text}", FutureWarning, stacklevel=5)

    def _mapping(self, tree: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
        value = tree.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.mistake(key, f"must be a mapping of keys to values, but got {value!r}")
        return value if isinstance(value, Mapping) else {}

    def _settings(self, tree: Mapping[Any, Any]) -> Settings:
        """The settings; invalid values are recorded and replaced by defaults, so that reading can continue."""
        found = {key: tree[key] for key in Settings.model_fields if key in tree}
        for former, name in RENAMED.items():
            section, key = former.split(".")
            if isinstance(found.get(section), Mapping) and key in found[section]:
                found[section] = {name: found[section][key], **found[section]}
                del found[section][key]
                self._warn(former, f"{former} is called {section}.{name} now; this is the last version to read both")
        wrong = _refusals(Settings, found)
        right = {key: value for key, value in flatten(found) if not any(_within(key, bad) for bad, _ in wrong)}
        settings = Settings.model_validate(unflatten(right))
        for key, reason in [*wrong, *settings.conflicts()]:
            self.mistake(key, reason)
        return settings

    def _base(self, tree: Mapping[Any, Any], epochs: int) -> dict[str, Any]:
        """Values of the base configuration by key; with the space's epochs they must be valid on their own."""
        training = tree.get("training", {})
        if isinstance(training, Mapping):
            if "epochs" in training:
                reason = "belongs at the top level, as epochs, which early stopping reads too"
                self.mistake("base.training.epochs", reason)
            tree = {**tree, "training": {**training, "epochs": epochs}}
        for key, reason in _refusals(Config, tree):
            self.mistake(f"base.{key}".removesuffix(".configuration"), reason)
        return {key: self._located(key, value) for key, value in flatten(tree) if key != "training.epochs"}

    def _located(self, key: str, value: Any) -> Any:
        return str(self.folder / value) if key in PATHS and isinstance(value, str) else value

    def _fit(self, tree: Mapping[Any, Any], base: Mapping[str, Any]) -> Fit | None:
        found = None
        for key in (key for key, entry in tree.items() if is_fit(entry) and _can_vary(key)):
            try:
                fit = read_fit(key, tree[key])
                if found is not None:
                    raise ValueError(f"one width can be fitted, and {found.key} is already")
                ratio = key.replace("feed_forward", "ff_expansion")
                if ratio != key and (base.get(ratio) is not None or ratio in tree):
                    width = key.replace("feed_forward", "d_model")
                    raise ValueError(f"{ratio} stands in its place: leave that out, or fit {width}")
            except ValueError as error:
                self.mistake(f"vary.{key}", str(error))
                continue
            self._check_values(key, [width for width in (fit.low, fit.high) if width is not None])
            found = fit
        return found

    def _vary(self, tree: Mapping[Any, Any]) -> dict[str, Variable]:
        """The searched keys; each comes after the keys that its condition names."""
        variables: dict[str, Variable] = {}
        for key, entry in tree.items():
            if not _can_vary(key):
                self.mistake(f"vary.{key}", why_not_varied(str(key)))
            elif not is_fit(entry):
                try:
                    variables[key] = self._variable(key, entry)
                except ValueError as error:
                    self.mistake(f"vary.{key}", str(error))
        for key, variable in variables.items():
            for parent, values in variable.when.items():
                try:
                    if parent in variables:
                        check_condition(values, variables[parent].distribution, parent)
                    elif is_fit(tree.get(parent)):
                        raise ValueError(f"when names {parent}, which is fitted after all others have their values")
                    elif parent not in tree:
                        varied = ", ".join(map(str, tree))
                        raise ValueError(f"when names {parent}, which does not vary; what varies is {varied}")
                except ValueError as error:
                    self.mistake(f"vary.{key}", str(error))
        return self._ordered(variables)

    def _variable(self, key: str, entry: Any) -> Variable:
        distribution = read_distribution(entry, FORMER_TYPES[key] if key in FORMER_TYPES else TYPES[key])
        self._check_values(key, distribution.candidates())
        if isinstance(distribution, Choice):
            distribution = Choice(tuple(self._located(key, value) for value in distribution.values))
        when = read_when(entry["when"]) if "when" in entry else {}
        located = {name: tuple(self._located(name, value) for value in values) for name, values in when.items()}
        return Variable(distribution, located)

    def _check_values(self, key: str, values: Iterable[Any]) -> None:
        """Records values that are invalid in every configuration as mistakes at `key`."""
        for value in values:
            for name, reason in _refusals(Config, unflatten({key: from_text(value) if key in STRUCTURED else value})):
                if _within(name, key):
                    self.mistake(f"vary.{key}", reason)

    def _ordered(self, variables: Mapping[str, Variable]) -> dict[str, Variable]:
        """The variables in the order of the file, but each key after the keys that its condition names."""
        ordered: dict[str, Variable] = {}
        while waiting := {key: variable for key, variable in variables.items() if key not in ordered}:
            ready = {key: one for key, one in waiting.items() if not any(parent in waiting for parent in one.when)}
            if not ready:
                for key in waiting:
                    self.mistake(f"vary.{key}", f"when is circular: it depends on itself through {', '.join(waiting)}")
                break
            ordered |= ready
        return ordered

    def _check_former_keys(self, base: Mapping[str, Any], varied: Mapping[Any, Any]) -> None:
        """Warns of former keys in the base or among the searched keys; beside those that replace them, a mistake."""
        now = [key for key in (*base, *varied) if key in REPLACING]
        for section, keys in (("base", base), ("vary", varied)):
            for key in (key for key in keys if key in FORMER_TYPES):
                if now:
                    self.mistake(f"{section}.{key}", f"cannot stand beside {now[0]}, which takes its place")
                else:
                    self._warn(f"{section}.{key}", former_key_notice(key))

    def _check_together(self, settings: Settings, base: Mapping[str, Any], vary: Mapping[str, Variable]) -> None:
        """Records conflicts of the settings with the base or the searched keys."""
        asha = settings.asha
        if base.get(KIND) == "language_model":
            if asha.metric is not None or asha.unit == "hours":
                reason = "a language model has neither a CER nor hours of audio: leave out metric, count updates"
                self.mistake("asha", reason)
            if "real_time_factor" in settings.objectives:
                self.mistake("objectives", "a language model has no real_time_factor: it decodes nothing")
        if settings.sampler == "grid":
            for key, variable in vary.items():
                if isinstance(variable.distribution, Float) and variable.distribution.step is None:
                    self.mistake(f"vary.{key}", "the grid sampler needs a step (float) or values (choice)")

    def _check_rules(self, space: Space) -> None:
        """Records what breaks the space's rules in its base, and keys that break one with every value they can have."""
        rules = space.settings.rules
        for key, reason in violations(rules, space.config({}), Facts()):
            self.mistake(f"base.{key}", reason)
        for key, variable in space.vary.items():
            reasons: list[str | None] = []
            for value in variable.distribution.candidates() if rules else ():
                with suppress(InputError):  # the value needs others of other keys
                    config = space.config({key: value})
                    reasons.append(dict(violations(rules, config, Facts())).get(key))
            if reasons and all(reasons):
                self.mistake(f"vary.{key}", str(reasons[0]))

    def _entries(self, tree: Any, varied: Mapping[Any, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Entries of `start`, each as (place such as `start.0`, values by key)."""
        if tree is not None and not isinstance(tree, list):
            self.mistake("start", f"must be a list of configurations, such as [{{}}], which is the base, not {tree!r}")
            return []
        entries = []
        for number, entry in enumerate(tree or []):
            place = f"start.{number}"
            if not isinstance(entry, Mapping):
                self.mistake(place, f"must be a mapping of varied keys to values, but got {entry!r}")
                continue
            leaves: dict[str, Any] = {}
            for key, value in flatten(entry):
                if key not in varied:
                    what = ", ".join(map(str, varied)) or "nothing"
                    self.mistake(f"{place}.{key}", f"does not vary; what varies is {what}")
                elif key in leaves:
                    self.mistake(f"{place}.{key}", "given twice, once by its path and once in its section")
                try:
                    leaves[key] = self._located(key, plain(key, value))
                except TypeError as error:  # a date, say
                    self.mistake(f"{place}.{key}", str(error))
            entries.append((place, leaves))
        return entries

    def _completed(self, space: Space, place: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """An entry of `start` as a proposal; active keys that are missing in it have the value of the base."""
        values, wrong = space.with_base(entry)
        for key, reason in wrong.items():
            remedy = "; it is the base's: give the key a value in this entry, or widen what varies"
            self.mistake(f"{place}.{key}", reason if key in entry else reason + remedy)
        if not wrong:
            try:
                config = space.config(values)
            except InputError as error:
                self.mistake(place, error.problem.removeprefix(f"{space.source}: proposal: "))
            else:
                for key, reason in violations(space.settings.rules, config, Facts()):
                    if key in entry:  # else the base breaks the rule
                        self.mistake(f"{place}.{key}", reason)
        return values


def _within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _can_vary(key: Any) -> bool:
    return (key in TYPES or key in FORMER_TYPES) and key not in FIXED


def _refusals(section: type[BaseModel], tree: Mapping[Any, Any]) -> list[tuple[str, str]]:
    """Invalid values of a section of the configuration, as (key, reason)."""
    try:
        section.model_validate(tree)
    except ValidationError as error:
        return [(key, reason) for key, _, reason in (line.partition(": ") for line in problems(error, section))]
    return []
