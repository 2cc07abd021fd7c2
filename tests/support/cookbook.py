"""The recipes of docs/grpcurl.md: their commands, and the shape of what they print."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

_SECTION = re.compile(r"^## (?P<heading>[^\n]+)$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


# What varies in text, and what stands for it when two lines are compared.
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"\bf[wra]_[\w-]{43}"), "<key>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"\b[0-9a-f]{12}-[0-9a-f]+\b"), "<request>"),
    (re.compile(r"-?\b\d+\b"), "<number>"),
    (re.compile(r"\s+"), " "),
)
_KINDS_OF_TEXT = {
    "time": re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"),
    "duration": re.compile(r"-?\d+(\.\d+)?s"),
    "int64": re.compile(r"-?\d+"),
    "constant": re.compile(r"[A-Z]+(_[A-Z]+)+"),
}


class Recipe(NamedTuple):
    """Commands of the page and what they are shown to print."""

    heading: str
    commands: str
    kind: str = "text"
    """Of what is shown: json or text."""
    shown: str = ""


def recipes(page: str) -> list[Recipe]:
    """The page's commands in order, each with the block after it, if that is its output."""
    found: list[Recipe] = []
    heading = ""
    for block in _SECTION.finditer(page):
        if block["heading"]:
            heading = block["heading"]
        elif block["kind"] == "sh":
            found.append(Recipe(heading, block["text"]))
        else:
            assert found, "an output without a command"
            assert not found[-1].shown, f"a second output of one command, below {heading!r}"
            found[-1] = found[-1]._replace(kind=block["kind"], shown=block["text"])
    return found


def shape_of(recipe: Recipe, printed: str) -> object:
    """What of an output must be as it is shown."""
    if recipe.kind == "json":
        return [json_shape(document) for document in documents(printed)]
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    for pattern, stand_in in _VARYING:
        lines = [pattern.sub(stand_in, line) for line in lines]
    return lines


def documents(text: str) -> Iterator[object]:
    """JSON documents that follow each other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:]


def json_shape(value: object) -> object:
    """Keys and kinds; a list is as its first element."""
    match value:
        case dict():
            return {key: json_shape(value[key]) for key in sorted(value)}
        case list():
            return [json_shape(item) for item in value[:1]]
        case str():
            return next((kind for kind, pattern in _KINDS_OF_TEXT.items() if pattern.fullmatch(value)), "text")
        case int() | float() if not isinstance(value, bool):
            return "number"
        case _:
            return value
