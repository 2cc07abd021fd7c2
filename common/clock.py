"""The system clock. Code that needs the current time takes a Clock or the time itself as a parameter."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The current time as an aware datetime in UTC."""
    return datetime.now(UTC)
