"""Rule sets of competitions: what a space, a trial and a trained model can be held to (`rules` in a space).

A rule is a function from a configuration, and what is known of its corpus and model, to a list of violations. The same
functions judge a space when it is read, a proposal before it becomes a trial, and a trained model.

The rules of `hw4p2` are the restrictions in section 4.1 of the write-up of CMU 11-785, homework 4, part 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from trainables.config.data import Data
from trainables.config.model import ConfigSection
from trainables.config.tree import Config, Pretrained
from trainables.errors import InputError

if TYPE_CHECKING:
    from trainables.data.corpus import Corpus
    from trainables.inference.model_directory import ModelInfo

RuleSetName = Literal["hw4p2"]

BUDGET = 30_000_000  # parameters
SOURCE, TRAIN, TEXT = "hw4", "train-clean-100", "hw4p1_data"  # importer, training split and text of the course
# Values of the write-up's own model. Others keep the order of norm, sublayer and residual, which the rule is about.
WRITE_UP = {
    "kind": ("encoder_decoder", "language_model"),
    "norm": ("layer",),
    "qk_norm": ("none",),
    "gated": (False,),
    "kv_heads": (None,),
    "context_size": (None,),
    "encoder_positions": ("none", "sinusoidal"),
    "encoder_causal": (False,),
    "decoder_positions": ("none", "sinusoidal"),
}
# Of a transcript editor, which the write-up does not have: what would be another architecture in a decoder too.
WRITE_UP_EDITOR = {name: WRITE_UP[name] for name in ("norm", "qk_norm", "gated", "kv_heads")} | {
    "positions": WRITE_UP["decoder_positions"]
}
LANGUAGE_MODEL = "decoding.language_model"
WEIGHTS = (
    *(f"pretrained.{name}" for name, field in Pretrained.model_fields.items() if field.annotation == str | None),
    LANGUAGE_MODEL,
)
"""Keys that name a model directory whose weights are used."""


class Violation(NamedTuple):
    """A broken rule.

    Attributes:
        key: key of the configuration that breaks the rule, such as `data.train`; empty if no single key does.
        reason: the value, and what the rule allows.
    """

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.key else self.reason


@dataclass(frozen=True)
class Facts:
    """Facts on which rules judge beside the configuration; a fact that is unknown is not judged.

    Args:
        corpus: the corpus to train on, or that a model was trained on.
        corpus_hash: content hash of the corpus that is trained on, which a model directory records.
        parameters: number of the model's parameters.
    """

    corpus: Corpus | None = None
    corpus_hash: str = ""
    parameters: int | None = None


@dataclass(frozen=True)
class Rule:
    """A rule of a rule set.

    Args:
        text: the rule in words.
        check: returns the violations.
        evidence: returns in words what a verdict of `check` is based on.
    """

    name: str
    text: str
    check: Callable[[Config, Facts], list[Violation]]
    evidence: Callable[[Config, Facts], str]


@dataclass(frozen=True)
class RuleSet:
    """The rules of a competition.

    Args:
        budget: largest budget of parameters that a space may have.
    """

    budget: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Finding:
    """Verdict of a rule.

    Args:
        text: the rule in words.
        evidence: what the verdict is based on, in words.
    """

    rule: str
    text: str
    violations: tuple[str, ...]
    evidence: str

    @property
    def holds(self) -> bool:
        return not self.violations

    def as_tree(self) -> dict[str, Any]:
        """The verdict as `platform check --json` prints it."""
        return {**asdict(self), "holds": self.holds}


def violations(name: RuleSetName | None, config: Config, facts: Facts) -> list[Violation]:
    """Violations of a rule set (None: no rules) by a configuration; each reason names rule set and rule."""
    return [
        Violation(key, f"{reason} (rules: {name}, {rule.name})")
        for rule in (RULES[name].rules if name else ())
        for key, reason in rule.check(config, facts)
    ]


def check_rules(name: RuleSetName | None, config: Config, facts: Facts) -> None:
    """Checks a configuration against a rule set (None: no rules).

    Raises:
        InputError: the configuration breaks rules; the message has all violations.
    """
    if found := violations(name, config, facts):
        raise InputError("; ".join(map(str, found)), REMEDY)


def findings(name: RuleSetName, config: Config, facts: Facts) -> list[Finding]:
    """Verdicts of all rules of a rule set on a configuration."""
    return [
        Finding(rule.name, rule.text, tuple(map(str, rule.check(config, facts))), rule.evidence(config, facts))
        for rule in RULES[name].rules
    ]


REMEDY = "Correct what the rules forbid, or take a copy of the space without its line `rules`."


def _budget(config: Config, facts: Facts) -> list[Violation]:
    if facts.parameters is None:
        return []
    try:
        total = facts.parameters + _parameters_of_search(config)
    except InputError as error:
        return [Violation(LANGUAGE_MODEL, f"its parameters cannot be counted: {error.problem}")]
    reason = f"{_budget_evidence(config, facts)}, but at most {BUDGET:,} are allowed"
    return [Violation("", reason)] if total > BUDGET else []


def _budget_evidence(config: Config, facts: Facts) -> str:
    if facts.parameters is None:
        return "the parameters were not counted"
    try:
        searched = _parameters_of_search(config)
    except InputError:
        searched = 0
    beside = f" and {searched:,} of the language model in its search" if searched else ""
    return f"{facts.parameters:,} parameters of the model{beside}"


def _parameters_of_search(config: Config) -> int:
    """Number of parameters of the language model in the search; 0 if the search has none."""
    folder = config.decoding.language_model
    return _stored_model(folder)[1] if folder is not None and config.decoding.lm_weight else 0


def _architecture(config: Config, facts: Facts) -> list[Violation]:
    block = config.model.encoder_block
    reason = f"{block}, but only the pre-norm transformer is allowed"
    return [] if block == "transformer" else [Violation("model.encoder_block", reason)]


def _architecture_evidence(config: Config, facts: Facts) -> str:
    """The encoder's block, and values that the write-up's model does not have, but does not forbid either."""
    parts: list[tuple[str, ConfigSection, Mapping[str, Sequence[Any]]]] = [("model", config.model, WRITE_UP)]
    if config.model.kind == "transcript_editor":
        parts.append(("model.editor", config.model.editor, WRITE_UP_EDITOR))
    other = [
        f"{part}.{name}: {getattr(section, name)}"
        for part, section, usual in parts
        for name, allowed in usual.items()
        if getattr(section, name) not in allowed
    ]
    beside = f"; the write-up neither has nor forbids {', '.join(other)}" if other else ""
    return f"model.encoder_block: {config.model.encoder_block}{beside}"


def _data(config: Config, facts: Facts) -> list[Violation]:
    found, corpus = _data_by_name(config.data), facts.corpus
    if corpus is None:
        return found
    if corpus.source != SOURCE:
        reason = f"the corpus {corpus.path} was prepared from {corpus.source}, but only the course's data are allowed"
        found.append(Violation("", reason))
    elif corpus.training_splits != [TRAIN]:  # its feature statistics are those of all training splits
        names = ", ".join(corpus.training_splits) or "none"
        found.append(Violation("", f"the corpus has the training splits {names}, but only {TRAIN} is allowed"))
    if facts.corpus_hash != corpus.hash:
        reason = f"trained on the corpus of hash {facts.corpus_hash[:12]}, but {corpus.path} has {corpus.hash[:12]}"
        found.append(Violation("", reason))
    return found


def _data_by_name(data: Data) -> list[Violation]:
    found = []
    if data.train not in (None, TRAIN):
        found.append(Violation("data.train", f"{data.train}, but only {TRAIN} is allowed"))
    if data.text is not None and TEXT not in (Path(data.text).name, _parent_of_train(data.text)):
        found.append(Violation("data.text", f"{data.text}, but only the course's {TEXT} is allowed, or {TEXT}/train"))
    return found


def _parent_of_train(path: str) -> str:
    return Path(path).parent.name if Path(path).name == "train" else ""


def _data_evidence(config: Config, facts: Facts) -> str:
    text = f" and the texts of {config.data.text}" if config.data.text else ""
    if facts.corpus is None:
        return f"the configuration names {config.data.train or 'no training split'}{text}; no corpus was examined"
    name, corpus = config.data.train or ", ".join(facts.corpus.training_splits), facts.corpus
    return f"{name}{text}; the corpus was prepared from {corpus.source} and has the hash {corpus.hash[:12]}"


def _validation(config: Config, facts: Facts) -> list[Violation]:
    train, validation = _split_names(config, facts)
    if train == validation:
        return [Violation("data.validation", f"{validation}, which is trained on")]
    if facts.corpus is None or validation is None:
        return []
    from trainables.data.inspection.overlaps import shared_utterances  # torch, which reading a space avoids

    shared = shared_utterances(facts.corpus, train, validation)
    reason = f"{len(shared)} utterances of {validation}, such as {shared[0]}, are in {train} too" if shared else ""
    return [Violation("", reason)] if shared else []


def _split_names(config: Config, facts: Facts) -> tuple[str, str | None]:
    """Names of the training and the validation split; None if the latter depends on a corpus that is not known."""
    if facts.corpus is None:
        name = config.data.train or TRAIN
        return name, f"fold {config.data.fold} of its speakers" if config.data.folds else config.data.validation
    return facts.corpus.training_name(config.data), facts.corpus.validation_name(config.data)


def _validation_evidence(config: Config, facts: Facts) -> str:
    train, validation = _split_names(config, facts)
    if facts.corpus is None:
        return f"the configuration names {validation or 'no validation split'}; no corpus was examined"
    return f"texts and features of {validation} were compared with those of {train}"


def _weights(config: Config, facts: Facts) -> list[Violation]:
    found = []
    for key, folder in _folders(config).items() if facts.corpus_hash else ():
        try:
            info, _ = _stored_model(folder)
        except InputError as error:
            found.append(Violation(key, f"what it was trained on is not known: {error.problem}"))
            continue
        if info.corpus_hash != facts.corpus_hash:
            reason = f"{folder} was trained on another corpus, of hash {info.corpus_hash[:12]}"
            found.append(Violation(key, f"{reason}, but only {facts.corpus_hash[:12]} is allowed"))
        found += [Violation(key, f"{folder} was trained with {other}") for other in _data_by_name(info.config.data)]
    return found


def _folders(config: Config) -> dict[str, str]:
    """Model directories whose weights are used, by key of the configuration."""
    named = {key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in WEIGHTS}
    return {key: folder for key, folder in named.items() if folder is not None}


def _weights_evidence(config: Config, facts: Facts) -> str:
    folders = _folders(config)
    if not folders:
        return "all weights were initialised at random"
    compared = "corpus hash and data of each were compared" if facts.corpus_hash else "no corpus was examined"
    return f"{', '.join(f'{key}: {folder}' for key, folder in folders.items())}; {compared}"


def _stored_model(folder: str) -> tuple[ModelInfo, int]:
    """Content of `config.json` and number of parameters of a model directory.

    Raises:
        InputError: the folder has no model, or a damaged one.
    """
    from trainables.inference.model_directory import read_info, stored_parameters  # torch, which reading a space avoids

    return read_info(Path(folder)), stored_parameters(Path(folder))


RULES: dict[RuleSetName, RuleSet] = {
    "hw4p2": RuleSet(
        BUDGET,
        (
            Rule("budget", f"at most {BUDGET:,} parameters, everything counted", _budget, _budget_evidence),
            Rule("architecture", "only the pre-norm transformer", _architecture, _architecture_evidence),
            Rule("data", f"trained on nothing but the course's {TRAIN} and {TEXT}", _data, _data_evidence),
            Rule("validation", "the validation split is not trained on", _validation, _validation_evidence),
            Rule("weights", "no weights from elsewhere", _weights, _weights_evidence),
        ),
    )
}
"""Rule sets by name."""
