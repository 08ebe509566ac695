"""What flows and tables are for, out of the source of this version of fedsdn.

A flow's cookie names the line that made it, and that line says what the flow is for. So another
site's dump can be read without its federation file.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from importlib.resources import files
from itertools import pairwise

from fedsdn.pipeline.cookie import Origin
from fedsdn.pipeline.declarations import Feature, Table


def flow_purpose(origin: Origin) -> str:
    """Return what a flow is for; empty if this version makes none in that line."""
    return _flow_purposes(origin.feature).get(origin.line, "")


def table_purpose(table: Table) -> str:
    """Return what a table is for, as it is declared."""
    return _table_purposes()[table]


@cache
def _flow_purposes(feature: Feature) -> dict[int, str]:
    """Find the calls with ``why="…"``, by their first line."""
    name = f"{feature.name.lower()}.py"
    tree = ast.parse(files("fedsdn.pipeline").joinpath(name).read_text("utf-8"))
    return {
        call.lineno: str(keyword.value.value)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "why" and isinstance(keyword.value, ast.Constant)
    }


@cache
def _table_purposes() -> dict[Table, str]:
    """Read the strings behind the members of ``Table``, which Python does not keep."""
    (declaration,) = ast.parse(inspect.getsource(Table)).body
    body = declaration.body if isinstance(declaration, ast.ClassDef) else []
    found = {}
    for member, following in pairwise(body):
        match member, following:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=text)):
                found[Table[name]] = str(text)
    return found
