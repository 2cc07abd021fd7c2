"""The condition for aggregated events: they are neither pending nor dead letters."""


def is_aggregated(event: str = "e", *, probed: bool = False) -> str:
    """An SQL condition: the event with the alias `event`, of site `%(site_id)s`, is aggregated.

    `probed` forces two index probes for each event. Without it the planner may hash both tables. That is faster for
    many events, but a statement with a LIMIT then reads all its candidates and not only the first.
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
