"""Hours and days in UTC: their lengths, their bounds, and the numbers that rollup rows have for them."""

from datetime import datetime, timedelta
from enum import IntEnum

from common.timestamps import EPOCH

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class RollupInterval(IntEnum):
    """`rollup_shards.interval`."""

    HOUR = 1
    DAY = 2


def floor(instant: datetime, unit: timedelta) -> datetime:
    """The last bound between two units at or before the instant. Units are counted from 1970."""
    return instant - (instant - EPOCH) % unit


def ceil(instant: datetime, unit: timedelta) -> datetime:
    """The first bound between two units at or after the instant. Units are counted from 1970."""
    return instant + (EPOCH - instant) % unit


def floor_hour(instant: datetime) -> datetime:
    """The start of the instant's hour."""
    return floor(instant, HOUR)


def ceil_hour(instant: datetime) -> datetime:
    """The first whole hour at or after the instant."""
    return ceil(instant, HOUR)


def floor_day(instant: datetime) -> datetime:
    """The start of the instant's day."""
    return floor(instant, DAY)


def ceil_day(instant: datetime) -> datetime:
    """The first whole day at or after the instant."""
    return ceil(instant, DAY)
