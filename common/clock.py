"""The one source of the present; everything that needs it is handed a clock."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The present as an aware datetime in UTC."""
    return datetime.now(UTC)
