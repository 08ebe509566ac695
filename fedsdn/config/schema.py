"""The JSON schemas of our files, and one clear message for what does not follow them.

The schemas serve editors too. Every value's ``description`` says what to write there: an editor
shows it, and so does an error.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from fedsdn.config.document import Document, quoted

SchemaName = Literal["federation", "topology"]


@cache
def _validator(name: SchemaName) -> Draft202012Validator:
    registry: Registry[Any] = Registry().with_resources(
        (file, Resource.from_contents(_schema(file)))
        for file in ("federation.schema.json", "topology.schema.json")
    )
    return Draft202012Validator({"$ref": f"{name}.schema.json"}, registry=registry)


def _schema(file: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files("fedsdn.config").joinpath(file).read_text("utf-8"))
    return schema


def validate(document: Document, name: SchemaName) -> None:
    """Check the document's keys and the types and ranges of its values against a schema.

    Raises:
        ConfigError: the first thing that is wrong; unknown keys first, as they explain what is
            missing elsewhere.

    """
    problems = [
        (error.validator != "additionalProperties", at.line, at.error(found, write))
        for error in _validator(name).iter_errors(document.value)
        for at, found, write in [_explain(document, error)]
    ]
    if problems:
        raise min(problems, key=lambda problem: problem[:2])[2]


def _explain(document: Document, error: ValidationError) -> tuple[Document, str, str]:
    """Say where the error is, what is there and what to write."""
    at = document
    for key in error.absolute_path:
        at = at.section(key)
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        return _unknown_key(at, list(schema["properties"]))
    if error.validator == "required":
        return _missing_key(at, schema)
    if "propertyNames" in error.relative_schema_path:
        name = str(error.instance)
        return at.section(name), f"the name {quoted(name)}", schema["description"]
    write: str = schema["description"]
    if error.validator_value == "string" and isinstance(error.instance, int | float):
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
        case str():
            return quoted(value)
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return f"a mapping of {len(value)}" if value else "an empty mapping"
        case _:
            return f"the number {value}"
