"""docs/errors.md tells of every reason what the code does with it: held against the enum and every place that raises.

What is raised is read from the source: each place names its reason and its gRPC code.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc

from common.errors import Reason

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "ingest_svc", "query_svc", "admin_svc")
COMPUTED = -1
"""A delay that is computed where the error is made; the page says "computed"."""
REJECTED, REFUSED, AGAIN = "Rejected events", "Refused calls", "Try again"

# Parameters by position, as the functions and classes of these names declare them.
_PARAMETERS = {
    "CallError": ("code", "reason", "message", "field", "retry_after_ms"),
    "invalid": ("field", "reason", "message"),
    "Rejection": ("reason", "message"),
}


class Raised(NamedTuple):
    """A place that makes an error."""

    reason: str
    code: str | None
    """None for a rejected event."""
    names_field: bool
    retry_after_ms: int | None


class Told(NamedTuple):
    """A row of the page."""

    section: str
    reason: str
    cells: dict[str, str]
    """By the table's headings."""


def raised() -> Iterator[Raised]:
    """Every place in the services that makes an error for a client."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _PARAMETERS:
                    found = _raised_by(node, node.func.id)
                    if found.reason != "reason":  # `invalid` itself, which passes on what it is given
                        yield found


def _raised_by(call: ast.Call, name: str) -> Raised:
    given = dict(zip(_PARAMETERS[name], call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    reason = ast.unparse(given["reason"]).removeprefix("Reason.")
    if name == "Rejection":
        return Raised(reason, None, False, None)
    code = ast.unparse(given["code"]).removeprefix("grpc.StatusCode.") if "code" in given else "INVALID_ARGUMENT"
    sent = given.get("retry_after_ms")
    delay = None if sent is None else sent.value if isinstance(sent, ast.Constant) else COMPUTED
    assert delay is None or isinstance(delay, int)
    return Raised(reason, code, "field" in given, delay)


def page() -> Iterator[Told]:
    """Every row of the page's tables of reasons."""
    for section in (ROOT / "docs" / "errors.md").read_text().split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        headings, _, *rows = (
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in body.splitlines()
            if line.startswith("|")
        )
        for row in rows:
            cells = dict(zip(headings, row, strict=True))
            yield Told(title, cells["reason"].strip("`"), cells)


RAISED, PAGE = list(raised()), list(page())


def codes_told(told: Told) -> set[str]:
    return set(re.findall(r"[A-Z][A-Z_]+", told.cells["code"]))


def test_every_reason_is_listed_exactly_once_and_no_other_is() -> None:
    assert sorted(told.reason for told in PAGE) == sorted(reason.name for reason in Reason)


def test_every_reason_is_raised_somewhere_and_no_error_has_another() -> None:
    """And with a gRPC code that there is."""
    assert {one.reason for one in RAISED} == {reason.name for reason in Reason}
    assert {one.code for one in RAISED if one.code} <= {code.name for code in grpc.StatusCode}


def test_a_reason_is_listed_with_every_code_that_a_call_is_refused_with() -> None:
    """Reasons of events have one only where they also refuse whole calls."""
    codes: dict[str, set[str]] = {reason.name: set() for reason in Reason}
    for one in RAISED:
        codes[one.reason] |= {one.code} if one.code else set()
    assert {told.reason: codes_told(told) for told in PAGE} == codes


def test_the_reasons_of_events_are_listed_under_rejected_events() -> None:
    assert {told.section for told in PAGE} == {REJECTED, REFUSED, AGAIN}
    assert {told.reason for told in PAGE if told.section == REJECTED} == {
        one.reason for one in RAISED if one.code is None
    }


def test_invalid_argument_names_a_field_unless_the_page_says_that_it_does_not() -> None:
    without = {told.reason for told in PAGE if "no field" in told.cells["code"]}
    assert without == {one.reason for one in RAISED if one.code == "INVALID_ARGUMENT" and not one.names_field}


def test_a_delay_is_listed_exactly_where_a_refusal_carries_one() -> None:
    """Only under what may be tried again; a reason has one delay."""
    delays = {one.reason: one.retry_after_ms for one in RAISED if one.retry_after_ms is not None}
    told = {told.reason: told.cells["delay"] for told in PAGE if told.section == AGAIN}
    assert {reason: delay for reason, delay in told.items() if delay != "–"} == {
        reason: "computed" if milliseconds == COMPUTED else f"{milliseconds / 1000:g} s"
        for reason, milliseconds in delays.items()
    }
    assert {one.retry_after_ms for one in RAISED if one.reason in delays} == set(delays.values())
