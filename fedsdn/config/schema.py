"""Validation against the JSON schemas of our files, with one clear message for the first error.

The schemas serve editors too. Every value's ``description`` says what to write there: an editor
shows it, and so does an error.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from jsonschema_rs import Draft202012Validator, Registry, ValidationError
from jsonschema_rs import ValidationErrorKind as Kind

from fedsdn.config.document import Document, quoted
from fedsdn.errors import FinalError

SchemaName = Literal["federation", "topology", "expectations"]


@cache
def _validator(name: SchemaName) -> Draft202012Validator:
    every = [(file, _schema(file)) for file in map(_file, get_args(SchemaName))]
    return Draft202012Validator(_schema(_file(name)), registry=Registry(every))


def _file(name: SchemaName) -> str:
    return f"{name}.schema.json"


@cache
def _schema(file: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files("fedsdn.config").joinpath(file).read_text("utf-8"))
    return schema


def validate(document: Document, name: SchemaName) -> None:
    """Check the document's keys and the types and ranges of its values against a schema.

    Raises:
        ConfigError: the first error in the file; unknown keys first, as a misspelt key explains
            what is missing elsewhere.

    """
    problems = [
        (not isinstance(error.kind, Kind.AdditionalProperties), at.line, at.error(found, write))
        for error in _validator(name).iter_errors(document.value)
        for at, found, write in [_explain(document, error, _file(name))]
    ]
    if problems:
        raise min(problems, key=lambda problem: problem[:2])[2]


def check_site_name(name: str) -> None:
    """Check that a site may be called so.

    Raises:
        FinalError: it may not.

    """
    names = _schema(_file("federation"))["properties"]["sites"]["propertyNames"]
    if not re.search(names["pattern"], name):
        raise FinalError(f"found the site's name {quoted(name)}; write {names['description']}")


def _violated(error: ValidationError, file: str) -> Any:  # noqa: ANN401 - JSON
    """Return the schema whose keyword the error is about; validation began in schema ``file``."""
    schema: Any = _schema(file)
    for key in error.evaluation_path[:-1]:
        schema = schema[key]
        if key == "$ref":
            other, _, pointer = schema.partition("#")
            file = other or file
            schema = _schema(file)
            for step in pointer.split("/")[1:]:
                schema = schema[step]
    return schema


def _explain(document: Document, error: ValidationError, file: str) -> tuple[Document, str, str]:
    """Return the section that violates the schema ``file``, what it has and what to write there."""
    at = document
    for key in error.instance_path:  # has a number for a name that looks like one
        at = at.section(key if isinstance(at.value, list) else str(key))
    if isinstance(error.kind, Kind.PropertyNames):
        wrong = error.kind.error
        name = str(wrong.instance)
        return at.section(name), f"the name {quoted(name)}", _violated(wrong, file)["description"]
    schema = _violated(error, file)
    match error.kind:
        case Kind.AdditionalProperties():
            return _unknown_key(at, list(schema["properties"]))
        case Kind.Required():
            return _missing_key(at, schema)
    write: str = schema["description"]
    if schema.get("type") == "string" and isinstance(error.instance, int | float):
        write += ", in quotes"
    return at, describe(error.instance), write


def _unknown_key(at: Document, known: list[str]) -> tuple[Document, str, str]:
    key = next(key for key in at.value if key not in known)
    near = get_close_matches(key, known, n=1)
    write = f"'{near[0]}'" if near else "one of " + ", ".join(f"'{name}'" for name in known)
    return at.section(key), "an unknown key", write


def _missing_key(at: Document, schema: Any) -> tuple[Document, str, str]:  # noqa: ANN401 - JSON
    key = next(key for key in schema["required"] if key not in at.value)
    return at.section(key), "nothing", schema["properties"][key]["description"]


def describe(value: object) -> str:
    """Say what a value of a document is."""
    match value:
        case None:
            return "nothing"
        case str() if "PRIVATE KEY" in value:  # errors are logged
            return "a private key"
        case str():
            return quoted(value)
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return f"a mapping of {len(value)}" if value else "an empty mapping"
        case _:
            return f"the number {value}"
