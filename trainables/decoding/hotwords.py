"""Hotwords: words and phrases that a beam search favours (shallow biasing).

Each token that continues a hotword adds a bonus to the score of its hypothesis, so that the hotword survives in the
beam until it is whole; if it is not completed, the bonus is taken back (Zhao et al., 2019, Interspeech, "Shallow-fusion
end-to-end contextual biasing", section 3). All hotwords are matched at once by an automaton of Aho and Corasick (1975,
CACM 18(6)), whose transitions are a table, so that a step of the search is one look-up on the device.

Shapes: N nodes of the automaton, V vocabulary, B utterances, K hypotheses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.data.text.tokenizer import EOS, SPECIAL_IDS, UNK, Tokenizer
from trainables.errors import InputError

MOST_ENTRIES = 50_000_000  # of the table, nodes x vocabulary: 600 MB


@dataclass
class _Node:
    """A beginning of one or more hotwords.

    Args:
        path: its tokens.
        earned: bonus of `path`, which is lost unless a hotword is completed.
        kept: bonus of the longest hotword that `path` begins with, if the word after it has begun too.
        complete: whether `path` is a hotword.
    """

    path: tuple[int, ...]
    earned: float
    kept: float = 0.0
    complete: bool = False


@dataclass(frozen=True)
class Hotwords:
    """An automaton that finds hotwords in a text token by token, from the start of a word to the end of a word.

    Args:
        next_NV: node after each token.
        bonus_NV: bonus of each token, in units of the weight; EOS counts as the end of a word.
        start: node before the first token.
        longest: number of tokens of the longest hotword.
    """

    next_NV: Tensor
    bonus_NV: Tensor
    start: int
    longest: int

    @classmethod
    def of(cls, phrases: Sequence[str], tokenizer: Tokenizer) -> Hotwords:
        """The automaton of phrases, which are normalised as the texts of the tokenizer are.

        Raises:
            InputError: a phrase has a character that the tokenizer does not know, or there are too many phrases.
        """
        tokens = tokenizer.encode(phrases)
        for phrase, row in zip(phrases, tokens, strict=True):
            if UNK in row:
                letters = "".join(sorted(set(phrase) - set("".join(tokenizer.texts[len(SPECIAL_IDS) :]))))
                raise InputError(
                    f"hotwords: {phrase!r} has {letters!r}, which the model never writes", "Spell it as transcripts do."
                )
        begins_word_V = torch.tensor([text.startswith(" ") for text in tokenizer.texts])
        begins_word_V[EOS] = True
        # In a text of characters, a space comes before a word. It is part of the path, but earns nothing.
        lead = tuple(tokenizer.encode([" "])[0]) if tokenizer.kind == "char" else ()
        paths = [(*lead, *row) for row in tokens if row]
        return cls.of_tokens(paths, begins_word_V, lead)

    @classmethod
    def of_tokens(cls, paths: Sequence[tuple[int, ...]], begins_word_V: Tensor, lead: tuple[int, ...] = ()) -> Hotwords:
        """The automaton that finds sequences of tokens.

        Args:
            begins_word_V: whether a token ends the word before it.
            lead: tokens that each path begins with, and that are taken to come before a text.

        Raises:
            InputError: there are too many tokens.
        """
        nodes = _nodes(paths, len(lead), begins_word_V)
        size = (len(nodes), len(begins_word_V))
        if size[0] * size[1] > MOST_ENTRIES:
            most = MOST_ENTRIES // size[1]
            raise InputError(f"hotwords: {size[0]:,} tokens, but {most:,} is the most that fits", "Give fewer of them.")
        number = {node.path: index for index, node in enumerate(nodes)}
        children: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for path, index in list(number.items())[1:]:
            children[path[:-1]].append((path[-1], index))
        next_NV, bonus_NV = torch.zeros(size, dtype=torch.int64), torch.zeros(size)
        suffix = [0] * len(nodes)  # number of the longest beginning of a hotword that ends the path, but is not it
        for index, node in enumerate(nodes):  # shorter paths come first
            if node.path[:-1]:
                suffix[index] = int(next_NV[suffix[number[node.path[:-1]]], node.path[-1]])
            if index:
                shorter = nodes[suffix[index]]
                kept_V = torch.where(begins_word_V & node.complete, node.earned, node.kept)
                next_NV[index] = next_NV[suffix[index]]
                bonus_NV[index] = bonus_NV[suffix[index]] + shorter.earned - node.earned + kept_V
            for token, child in children.get(node.path, ()):
                next_NV[index, token], bonus_NV[index, token] = child, nodes[child].earned - node.earned
        longest = max((len(path) - len(lead) for path in paths), default=0)
        return cls(next_NV, bonus_NV, number.get(lead, 0), longest)

    def to(self, device: torch.device) -> Hotwords:
        """The same automaton with its tables on a device."""
        return Hotwords(self.next_NV.to(device), self.bonus_NV.to(device), self.start, self.longest)


class HotwordScorer:
    """Bonuses of hotwords as a scorer of a beam search."""

    def __init__(self, hotwords: Hotwords) -> None:
        self.hotwords = hotwords
        self.node_BK: Tensor | None = None

    def step(self, tokens_BK: Tensor, parents_BK: Tensor) -> Tensor:
        """Bonus of each next token, (B, K, V); see `Scorer`."""
        if self.node_BK is None:
            self.node_BK = torch.full_like(tokens_BK, self.hotwords.start)
        else:
            self.node_BK = self.hotwords.next_NV[self.node_BK.gather(1, parents_BK), tokens_BK]
        return self.hotwords.bonus_NV[self.node_BK]


def _nodes(paths: Sequence[tuple[int, ...]], lead: int, begins_word_V: Tensor) -> list[_Node]:
    """All beginnings of the paths, shortest first; the first one is empty.

    Args:
        lead: number of tokens at the start of each path that earn nothing.
    """
    found: dict[tuple[int, ...], _Node] = {(): _Node((), 0.0)}
    whole = set(paths)
    for path in sorted(whole):
        for length in range(1, len(path) + 1):
            before, part = found[path[: length - 1]], path[:length]
            kept = before.earned if before.complete and begins_word_V[part[-1]] else before.kept
            found[part] = _Node(part, float(max(0, length - lead)), kept, part in whole)
    return sorted(found.values(), key=lambda node: len(node.path))
