"""Scores given from outside: a table with a row for every path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.data.text.tokenizer import EOS, SPECIAL_IDS

Path = tuple[int, ...]


def letters(count: int) -> list[int]:
    return list(range(len(SPECIAL_IDS), len(SPECIAL_IDS) + count))


class Table:
    """A random distribution over the next token for every path of an utterance; it scores the search's hypotheses."""

    def __init__(self, seed: int, count: int, utterances: int, temperature: float = 1.0, ending: float = 0.0) -> None:
        self.letters, self.utterances = letters(count), utterances
        self.vocabulary = len(SPECIAL_IDS) + count
        self.seed, self.temperature, self.ending = seed, temperature, ending
        self.rows: dict[tuple[int, Path], Tensor] = {}
        self.paths: list[list[Path]] | None = None

    def row(self, utterance: int, path: Path) -> Tensor:
        """Log-probabilities of what follows `path`, (V,)."""
        if (utterance, path) not in self.rows:
            generator = torch.Generator().manual_seed(hash((self.seed, utterance, path)) % 2**62)
            logits_V = 2 * torch.randn(self.vocabulary, generator=generator)
            logits_V[EOS] += self.ending
            self.rows[utterance, path] = (logits_V / self.temperature).log_softmax(-1)
        return self.rows[utterance, path]

    def step(self, tokens_BK: Tensor, parents_BK: Tensor) -> Tensor:
        if self.paths is None:
            self.paths = [[()] * tokens_BK.shape[1] for _ in range(self.utterances)]
        else:
            self.paths = [
                [(*paths[parent], token) for parent, token in zip(parents, tokens, strict=True)]
                for paths, parents, tokens in zip(self.paths, parents_BK.tolist(), tokens_BK.tolist(), strict=True)
            ]
        return torch.stack(
            [torch.stack([self.row(utterance, path) for path in paths]) for utterance, paths in enumerate(self.paths)]
        )


@dataclass(frozen=True)
class Rules:
    """What a hypothesis' score follows from."""

    tables: tuple[tuple[float, Table], ...]
    repeat_penalty: float = 1.0
    length_penalty: float = 0.0

    def token(self, utterance: int, path: Path, token: int) -> float:
        """The score of `token` behind `path`."""
        score = sum(weight * table.row(utterance, path)[token].item() for weight, table in self.tables)
        return score * (self.repeat_penalty if token in path else 1.0)

    def rank(self, score: float, length: int) -> float:
        return score / length**self.length_penalty

    def exhaustive(
        self, utterance: int, limit: int, path: Path = (), score: float = 0.0
    ) -> Iterator[tuple[float, Path]]:
        """Every transcript of at most `limit` tokens, EOS included, with what it is ranked by."""
        for token in [EOS, *self.tables[0][1].letters]:
            total, length = score + self.token(utterance, path, token), len(path) + 1
            if token == EOS:
                yield self.rank(total, length), path
            elif length == limit:
                yield self.rank(total, length), (*path, token)
            else:
                yield from self.exhaustive(utterance, limit, (*path, token), total)

    def plain_beam(self, utterance: int, limit: int, beam: int) -> list[tuple[float, Path]]:
        """A beam search as it is told: to the largest length, one hypothesis after the other."""
        live: list[tuple[float, Path]] = [(0.0, ())]
        done: list[tuple[float, Path]] = []
        for length in range(1, limit + 1):
            following = [
                (score + self.token(utterance, path, token), path, token)
                for score, path in live
                for token in [EOS, *self.tables[0][1].letters]
            ]
            following.sort(key=lambda item: -item[0])
            for score, path, token in following[:beam]:
                if token == EOS:
                    done.append((self.rank(score, length), path))
                elif length == limit:
                    done.append((self.rank(score, length), (*path, token)))
            live = [(score, (*path, token)) for score, path, token in following if token != EOS][:beam]
        return sorted(done, key=lambda item: -item[0])[:beam]


def spoken(row: list[int], score: float) -> Path | None:
    """A row of tokens up to EOS; None where nothing was found."""
    return None if score == -math.inf else tuple(row[: row.index(EOS)])
