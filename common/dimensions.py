"""The list of dimensions: what rollups are kept by, such as page or country.

`number` is the value of the proto enum and of `rollup_shards.dimension`; it never changes. An event dimension has an
SQL expression over `events` (alias e) that gives the key or NULL, and the same rule in Python. Tests compare the two.
Its column of `sessions` holds the key of the session's first event. A session dimension has only a column of
`sessions`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import Protocol


class EventType(IntEnum):
    """`events.type`, the numbers of the proto enum."""

    PAGEVIEW = 1
    TRACK = 2
    IDENTIFY = 3


class KeyedEvent(Protocol):
    """The fields of an event that its keys follow from. Absent texts are None."""

    @property
    def type(self) -> int: ...
    @property
    def name(self) -> str | None: ...
    @property
    def path(self) -> str | None: ...
    @property
    def referrer(self) -> str | None: ...
    @property
    def utm_source(self) -> str | None: ...
    @property
    def utm_medium(self) -> str | None: ...
    @property
    def utm_campaign(self) -> str | None: ...
    @property
    def device(self) -> str | None: ...
    @property
    def browser(self) -> str | None: ...
    @property
    def os(self) -> str | None: ...
    @property
    def country(self) -> str | None: ...


@dataclass(frozen=True)
class EventDimension:
    """A dimension of events and sessions. An event's key is key(event), a session's that of its first event."""

    number: int
    column: str
    """The column of `sessions` with the first event's key; "" for the overview, whose only key is ""."""
    sql: str
    key: Callable[[KeyedEvent], str | None]


@dataclass(frozen=True)
class SessionDimension:
    """A dimension of sessions only. A session's key is its value of `column`."""

    number: int
    column: str


def _event_key(event: KeyedEvent) -> str | None:
    if event.type == EventType.TRACK:
        return event.name
    return "pageview" if event.type == EventType.PAGEVIEW else "identify"


_EVENT_SQL = "CASE e.type WHEN 1 THEN 'pageview' WHEN 2 THEN e.name ELSE 'identify' END"

OVERVIEW = EventDimension(0, "", "''", lambda event: "")
EVENT = EventDimension(1, "event", _EVENT_SQL, _event_key)
PAGE = EventDimension(
    2, "page", "CASE WHEN e.type = 1 THEN e.path END", lambda event: event.path if event.type == 1 else None
)
REFERRER = EventDimension(3, "referrer", "e.referrer", attrgetter("referrer"))
UTM_SOURCE = EventDimension(4, "utm_source", "e.utm_source", attrgetter("utm_source"))
UTM_MEDIUM = EventDimension(5, "utm_medium", "e.utm_medium", attrgetter("utm_medium"))
UTM_CAMPAIGN = EventDimension(6, "utm_campaign", "e.utm_campaign", attrgetter("utm_campaign"))
DEVICE = EventDimension(7, "device", "e.device", attrgetter("device"))
BROWSER = EventDimension(8, "browser", "e.browser", attrgetter("browser"))
OS = EventDimension(9, "os", "e.os", attrgetter("os"))
COUNTRY = EventDimension(10, "country", "e.country", attrgetter("country"))
ENTRY_PAGE = SessionDimension(11, "entry_page")
EXIT_PAGE = SessionDimension(12, "exit_page")

EVENT_DIMENSIONS: tuple[EventDimension, ...] = (
    OVERVIEW,
    EVENT,
    PAGE,
    REFERRER,
    UTM_SOURCE,
    UTM_MEDIUM,
    UTM_CAMPAIGN,
    DEVICE,
    BROWSER,
    OS,
    COUNTRY,
)
SESSION_DIMENSIONS: tuple[SessionDimension, ...] = (ENTRY_PAGE, EXIT_PAGE)
KEYED_EVENT_DIMENSIONS = EVENT_DIMENSIONS[1:]
"""The event dimensions for which a session stores the key of its first event, in the order of the columns."""

Dimension = EventDimension | SessionDimension
_RANKED: tuple[Dimension, ...] = (*KEYED_EVENT_DIMENSIONS, *SESSION_DIMENSIONS)
BY_NUMBER = {dimension.number: dimension for dimension in _RANKED}
"""The dimensions that a top list can rank, by number."""


def is_counted(number: int) -> bool:
    """Whether rollup rows of the dimension hold counts per visitor and not plain sets; see common/visitor_sets.py."""
    return isinstance(BY_NUMBER.get(number), SessionDimension)
