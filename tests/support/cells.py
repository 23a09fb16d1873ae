"""Runs a notebook in percent format, as a notebook would."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

CELL = "# %%"


def run(path: Path) -> dict[str, Any]:
    """What cells show, by the source of the expressions that they end with; one that ends otherwise shows nothing."""
    shown: dict[str, Any] = {}
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in path.read_text(encoding="utf-8").split(f"\n{CELL}"):
        tree = ast.parse(f"#{cell}")  # the rest of the line that begins it is a comment
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(path), "exec"), names)
        if isinstance(last, ast.Expr):
            shown[ast.unparse(last)] = eval(compile(ast.Expression(last.value), str(path), "eval"), names)
    return shown
