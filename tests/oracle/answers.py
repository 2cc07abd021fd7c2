"""What a recount answers with: metrics, and the rows of lists.

Times are whole microseconds since 1970 UTC, durations whole microseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from tests.oracle.raw_events import Scalar


@dataclass(frozen=True, eq=False)
class Metrics:
    """What is counted; equal when the counts are, the rate, and the mean duration to a microsecond."""

    events: int
    pageviews: int
    sessions: int
    visitors: int
    new_visitors: int
    bounce_rate: float
    """0 without sessions, as the next."""
    average_session_duration: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metrics) and all(
            abs(getattr(self, name) - getattr(other, name)) <= TOLERANCES.get(name, 0) for name in METRICS
        )


METRICS = tuple(metric.name for metric in fields(Metrics))
TOLERANCES = {"bounce_rate": 1e-12, "average_session_duration": 1}


class SessionRow(NamedTuple):
    """One line of a list of sessions."""

    session_id: str
    visitor_id: str
    user_id: str
    start: int
    end: int
    events: int
    pageviews: int
    bounce: bool
    new_visitor: bool
    entry_page: str
    exit_page: str
    referrer: str
    context: tuple[str, ...]
    """Of its first event: device, browser, os, country, utm_source, utm_medium, utm_campaign."""


class VisitorRow(NamedTuple):
    """One line of a list of visitors."""

    visitor_id: str
    user_id: str
    traits: Mapping[str, Scalar]
    """The properties of its latest IDENTIFY."""
    first_seen: int
    last_seen: int
    first_touch: tuple[str, ...]
    """What its earliest event says under TOUCH_FIELDS; the next, its latest."""
    last_touch: tuple[str, ...]
