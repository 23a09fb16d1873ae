"""YAML that remembers where each key stands, and the mistakes found in it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from trainables.errors import InputError


class _Loader(yaml.SafeLoader):
    """Reads `5e-4` as the number that people mean; YAML 1.1 takes it for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class Document:
    """One YAML file, and every mistake found in it so far.

    Args:
        text: the file's content.
        source: the file to name in errors.

    Raises:
        InputError: the text is not one YAML document; the message names the line.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._lines: dict[str, int] = {}
        self._mistakes: list[tuple[int, str]] = []
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            self.tree: Any = None if node is None else loader.construct_document(node)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            place = source if mark is None else f"{source}, line {mark.line + 1}"
            reason = getattr(error, "problem", None) or error
            raise InputError(f"{place}: not valid YAML: {reason}", "Correct the file's YAML.") from None
        if node is not None:
            self._note(node, "", set())

    def _note(self, node: yaml.Node, path: str, above: set[int]) -> None:
        """Records the line of every key below `node`, and keys given twice."""
        if id(node) in above:
            raise InputError(f"{self.source}: {path[:-1]} contains itself through an alias", "Write its value out.")
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._lines[f"{path}{number}"] = item.start_mark.line + 1
                self._note(item, f"{path}{number}.", above | {id(node)})
        if not isinstance(node, yaml.MappingNode):
            return
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = f"{path}{key.value}", key.start_mark.line + 1
            if name in seen:
                self._mistakes.append((line, f"{name}: given twice; the first is on line {seen[name]}"))
            seen[name] = line
            self._lines[name] = line
            self._note(value, f"{name}.", above | {id(node)})

    def mistake(self, key: str, reason: str) -> None:
        """Notes what is wrong at `key`, a path such as `base.model.dropout`."""
        known = key
        while known and known not in self._lines:
            known = known.rpartition(".")[0]
        self._mistakes.append((self._lines.get(known, 1), f"{key}: {reason}"))

    def check(self) -> None:
        """Raises one InputError with every mistake noted, in the order of their lines."""
        if self._mistakes:
            found = [f"  line {line}: {text}" for line, text in sorted(dict.fromkeys(self._mistakes))]
            count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
            raise InputError("\n".join([f"{self.source}: {count}:", *found]), "Correct the lines named above.")
