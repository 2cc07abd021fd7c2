"""The one rule that says which events are aggregated: those that are neither pending nor dead letters."""


def is_aggregated(event: str = "e", *, probed: bool = False) -> str:
    """An SQL condition on the events aliased `event`, of the site `%(site_id)s`.

    `probed` asks for two index probes for each event. Without it the planner may hash both tables, which is faster
    where many events are looked at, but reads every expired row where a statement stops at its LIMIT.
    """
    barrier = " OFFSET 0" if probed else ""
    return f"""
    NOT EXISTS (
        SELECT FROM pending_batches p WHERE p.site_id = %(site_id)s AND p.batch_id = {event}.batch_id
          AND {event}.ord BETWEEN p.first_ord AND p.last_ord{barrier}
    )
    AND NOT EXISTS (
        SELECT FROM failed_events f WHERE f.site_id = %(site_id)s AND f.batch_id = {event}.batch_id
          AND f.ord = {event}.ord{barrier}
    )
    """
