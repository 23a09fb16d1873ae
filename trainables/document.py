"""YAML with the line of each key, so that mistakes are reported by line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

import yaml

from trainables.errors import InputError

MOST_VALUES = 10_000  # keys and values of a file with its aliases expanded

# Accepted numbers and truth values, underscores aside. YAML 1.1 would also read 1:30 as 90, 010 as 8, and yes, no, on
# and off as truth values.
UNAMBIGUOUS = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+|0b[01]+)"),
    "float": re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
}


class _Loader(yaml.SafeLoader):
    """Reads `5e-4` as a number; YAML 1.1 reads it as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


class Document:
    """A YAML document (a space, a configuration) and the mistakes found in it.

    Values that YAML 1.1 reads in a surprising way (`1:30`, `010`, `yes`) are mistakes.

    Args:
        text: content of the file.
        source: name of the file in errors.

    Raises:
        InputError: the text is not one YAML document, or too large with its aliases expanded; the message names the
            line.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._lines: dict[str, int] = {}
        self._mistakes: list[tuple[int, str]] = []
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is not None:
                self._count(node, {})  # before the values are constructed, which may take too long
            self.tree: Any = None if node is None else loader.construct_document(node)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            mark = getattr(error, "problem_mark", None)
            place = source if mark is None else f"{source}, line {mark.line + 1}"
            reason = getattr(error, "problem", None) or error
            raise InputError(f"{place}: not valid YAML: {reason}", "Correct the file's YAML.") from None
        if node is not None:
            self._note(node, "")

    def _count(self, node: yaml.Node, counts: dict[int, int | None]) -> int:
        """Number of nodes below `node` with aliases expanded; `counts` caches it, None for ancestors."""
        place = f"{self.source}, line {node.start_mark.line + 1}"
        if id(node) not in counts:
            counts[id(node)] = None
            counts[id(node)] = 1 + sum(self._count(child, counts) for child in _children(node))
        count = counts[id(node)]
        if count is None:
            raise InputError(f"{place}: contains itself through an alias", "Write its value out.")
        if count > MOST_VALUES:
            raise InputError(
                f"{place}: more than {MOST_VALUES:,} values, with aliases expanded",
                "Leave out aliases or values.",
            )
        return count

    def _note(self, node: yaml.Node, path: str) -> None:
        """Records the lines of the keys below `node`, and duplicate keys and ambiguous values as mistakes."""
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, path.removesuffix("."))
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._lines[f"{path}{number}"] = item.start_mark.line + 1
                self._note(item, f"{path}{number}.")
        elif isinstance(node, yaml.MappingNode):
            self._note_mapping(node, path)

    def _note_mapping(self, node: yaml.MappingNode, path: str) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = f"{path}{key.value}", key.start_mark.line + 1
            if name in seen:
                self._mistakes.append((line, f"{name}: given twice; the first is on line {seen[name]}"))
            seen[name] = line
            self._lines[name] = line
            if isinstance(key, yaml.ScalarNode):
                self._check_scalar(key, name)
            self._note(value, f"{name}.")

    def _check_scalar(self, node: yaml.ScalarNode, path: str) -> None:
        kind = node.tag.rpartition(":")[2]
        if kind in UNAMBIGUOUS and not UNAMBIGUOUS[kind].fullmatch(node.value.replace("_", "")):
            found = yaml.SafeLoader("").construct_object(node)
            remedy = "write true or false" if kind == "bool" else "write it as a decimal number"
            reason = f"YAML 1.1 takes {node.value} for {str(found).lower()}: {remedy}, or put it in quotes"
            self._mistakes.append((node.start_mark.line + 1, f"{path or 'value'}: {reason}"))

    def line(self, key: str) -> int:
        """The line of `key`, a path such as `base.model.dropout`; of the nearest section above it if it is missing."""
        while key and key not in self._lines:
            key = key.rpartition(".")[0]
        return self._lines.get(key, 1)

    def mistake(self, key: str, reason: str) -> None:
        """Records a mistake at `key`, such as `base.model.dropout`."""
        self._mistakes.append((self.line(key), f"{key}: {reason}"))

    def check(self) -> None:
        """Raises an InputError with all recorded mistakes by line, if there are any."""
        if self._mistakes:
            found = [f"  line {line}: {text}" for line, text in sorted(dict.fromkeys(self._mistakes))]
            count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
            raise InputError("\n".join([f"{self.source}: {count}:", *found]), "Correct the lines named above.")


def _children(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return itertools.chain.from_iterable(node.value)
    return node.value if isinstance(node, yaml.SequenceNode) else ()
