"""Kinds of model in one space: which can be ranked together, and which keys have a meaning for which of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from search_spaces.distributions import Choice, Variable
from trainables.config.model import RECOGNISERS
from trainables.config.tree import DECODING_NOT_OF_EDITORS, DECODING_OF_EDITORS
from trainables.errors import InputError

if TYPE_CHECKING:
    from search_spaces.space import Space

KIND = "model.kind"
EDITOR = "transcript_editor"
OF_EDITORS = (
    "model.mid_head",
    "model.pooling",
    "model.projector",
    "model.editor",
    "model.slots",
    "drafts",
    "loss.copy_weight",
    "loss.draft_weight",
    "loss.mid_weight",
    *(f"decoding.{key}" for key in DECODING_OF_EDITORS),
)
"""Keys and sections without a meaning for a model that is no transcript editor."""
NOT_OF_EDITORS = (
    "model.decoder_layers",
    "model.decoder_positions",
    "model.tied_embeddings",
    "model.scale_embeddings",
    "model.embedding_multiplier",
    "model.logits_scaling",
    "model.encoder_output",
    "model.output_bias",
    "loss.ctc_weight",
    "loss.attention_weight",
    "loss.label_smoothing",
    *(f"decoding.{key}" for key in DECODING_NOT_OF_EDITORS),
)
"""Keys without a meaning for a transcript editor, which has keys of its own in their place."""


def has_meaning(key: str, kind: str) -> bool:
    """Whether a key has a meaning for a kind of model; encoder-decoders and language models are not told apart."""
    return not _is_within(key, NOT_OF_EDITORS if kind == EDITOR else OF_EDITORS)


def _is_within(key: str, sections: Iterable[str]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def kinds_of(vary: Mapping[str, Variable], base_kind: str) -> tuple[str, ...]:
    """Kinds of model that a space proposes."""
    if KIND not in vary:
        return (base_kind,)
    distribution = vary[KIND].distribution
    assert isinstance(distribution, Choice)
    return tuple(map(str, distribution.values))


def kinds_with(key: str, vary: Mapping[str, Variable], kinds: Iterable[str]) -> set[str]:
    """Kinds of model among `kinds` with which a key is active, by its condition and those of the keys in it."""
    found = set(kinds)
    for parent, allowed in vary[key].when.items() if key in vary else ():
        found &= set(map(str, allowed)) if parent == KIND else kinds_with(parent, vary, found)
    return found


def conflicts(vary: Mapping[str, Variable], fitted: Iterable[str], base_kind: str) -> list[tuple[str, str]]:
    """Searched or `fitted` keys that do not go with the kinds of model of a space, each as (key, reason)."""
    kinds = kinds_of(vary, base_kind)
    found = []
    if KIND in vary and not {base_kind, *kinds} <= set(RECOGNISERS):
        reason = (
            "language models are ranked by perplexity and recognisers by CER, so they cannot share a sweep: "
            f"{' and '.join(RECOGNISERS)} can vary; set language_model in base"
        )
        return [(KIND, reason)]
    for key in [*vary, *fitted]:
        without = [kind for kind in kinds if kind in kinds_with(key, vary, kinds) and not has_meaning(key, kind)]
        if not without:
            continue
        remedy = f"leave it out, or set another {KIND} in base"
        if KIND in vary:
            remedy = f"give it when: {{{KIND}: {next(kind for kind in RECOGNISERS if has_meaning(key, kind))}}}"
        if KIND in vary and key in fitted:
            remedy = "fit a width that both kinds have, such as model.feed_forward"
        found.append((key, f"has no meaning with {KIND}={without[0]}: {remedy}"))
    return found


def refused_values(space: Space) -> list[tuple[str, str]]:
    """Values that the transcript editors of a space cannot have, each as (place in its file, reason).

    A key that varies is refused only if all of its values are.
    """
    if EDITOR not in space.kinds:
        return []
    found = []
    others = [kind for kind in space.kinds if kind != EDITOR]
    for key, reason in space.config({}).editor_conflicts().items():
        kept = key in space.base and not has_meaning(key, EDITOR)  # an editor's, even if the key varies for the others
        if key not in space.vary and others and has_meaning(key, others[0]):
            line = f"{key}: {{choice: [{json.dumps(space.base[key])}], when: {{{KIND}: {others[0]}}}}}"
            reason += f"; or give it to the other kind alone, in vary instead of base: {line}"
        if key not in space.vary or kept:
            found.append((f"base.{key}", reason))
    alone = replace(space, base={}, vary={}, fit=None)
    for key, variable in space.vary.items():
        reasons: list[str | None] = []
        for value in variable.distribution.candidates() if EDITOR in kinds_with(key, space.vary, space.kinds) else ():
            with suppress(InputError):  # the value needs others of other keys
                reasons.append(alone.config({key: value}).editor_conflicts().get(key))
        if reasons and all(reasons):
            remedy = f"; or give it when: {{{KIND}: {others[0]}}}" if others else ""
            found.append((f"vary.{key}", f"{reasons[0]}{remedy}"))
    return found
