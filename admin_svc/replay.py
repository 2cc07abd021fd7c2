"""What a rebuild counts again of a page of events; see rebuild.py."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import psycopg

from admin_svc.sessionize import Event, Session

_HORIZON = "SELECT horizon FROM rebuilds WHERE site_id = %(site_id)s"


def horizon(connection: psycopg.Connection[Any], site_id: int) -> datetime | None:
    """Where the site's last rebuild began to make things again; None: at the beginning."""
    row = connection.execute(_HORIZON, {"site_id": site_id}).fetchone()
    return None if row is None else row[0]


def apart(
    events: list[Event], numbers: Mapping[str, int], stored: list[Session], begin: datetime | None
) -> tuple[list[Event], list[Session]]:
    """The events and sessions that are to be merged: without the sessions that were not cleared, which stay as they
    are, and without the events those hold already. `numbers` gives visitor ids their numbers."""
    if begin is None:
        return events, stored
    kept: defaultdict[tuple[int, str], list[Session]] = defaultdict(list)
    for session in stored:
        if session.started_at < begin:
            kept[session.visitor_no, session.session_id].append(session)

    def held(event: Event) -> bool:
        # Sessions of one stream do not overlap, so an event within one can only be its own.
        return any(
            session.started_at <= event.occurred_at <= session.ended_at
            for session in kept.get((numbers[event.visitor_id], event.session_id), ())
        )

    return [event for event in events if not held(event)], [one for one in stored if one.started_at >= begin]
