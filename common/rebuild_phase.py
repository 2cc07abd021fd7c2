"""The phases of a rebuild, for every service that reads derived rows."""

from enum import IntEnum


class RebuildPhase(IntEnum):
    """`rebuilds.phase`; a rebuild goes through them in this order."""

    QUEUEING = 1
    """Aggregated events go back to the queue. Nothing else is aggregated or compacted."""
    CLEARING = 2
    """Visitors, sessions and rollups are deleted. Nothing else is aggregated or compacted."""
    REPLAYING = 3
    """The queued events are aggregated again, before newer ones."""
    DONE = 4


def rollups_incomplete(rebuild: str) -> str:
    """An SQL condition on the row of `rebuilds` with the alias `rebuild`: the site's rollups are not whole."""
    return f"{rebuild}.phase < {RebuildPhase.REPLAYING}"


def under_way(rebuild: str) -> str:
    """An SQL condition on the row of `rebuilds` with the alias `rebuild`: the rebuild has not ended."""
    return f"{rebuild}.phase < {RebuildPhase.DONE}"
