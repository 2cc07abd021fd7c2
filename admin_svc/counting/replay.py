"""Which events and sessions of a chunk of replays are merged; see maintenance/rebuild.py."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from admin_svc.counting.reads import Reads, Statement
from admin_svc.counting.sessionize import Event, Session

# The horizon of the site's last rebuild.
_HORIZON = "SELECT horizon FROM rebuilds WHERE site_id = %(site_id)s"


def horizon(site_id: int) -> Reads[datetime | None]:
    """From when on the site's last rebuild makes derived rows again; None = it makes all of them again."""
    rows = yield Statement(_HORIZON, {"site_id": site_id})
    return rows[0][0] if rows else None


def apart(
    events: list[Event], numbers: Mapping[str, int], stored: list[Session], horizon: datetime
) -> tuple[list[Event], list[Session]]:
    """The events and stored sessions that are to be merged.

    Sessions that began before the horizon are left out, because the rebuild has not cleared them. So are the events
    that they hold already. `numbers` has the visitor numbers by visitor id.
    """
    kept: defaultdict[tuple[int, str], list[Session]] = defaultdict(list)
    for session in stored:
        if session.started_at < horizon:
            kept[session.visitor_no, session.session_id].append(session)

    def is_held(event: Event) -> bool:
        # Sessions of one stream do not overlap, so an event within one belongs to it.
        return any(
            session.started_at <= event.occurred_at <= session.ended_at
            for session in kept.get((numbers[event.visitor_id], event.session_id), ())
        )

    return [event for event in events if not is_held(event)], [one for one in stored if one.started_at >= horizon]
