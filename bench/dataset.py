"""Generates many events in a DuckDB file: the same every time, in the columns of `events`, oldest first.

Equal parts of the sessions have 1, 2, 4, 6 and 12 events, so a fifth of them bounces. The popularity of pages,
referrers, countries and campaigns follows Zipf's law. Device, browser, system and country are a visitor's, referrer and
campaign a session's. One session in fifty has gaps of 40 minutes and so becomes several sessions, one in fifty has no
session id, and a third of the TRACK events has no path.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

EVENTS_A_VISITOR = 20
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Shape:
    """The numbers of events and keys. All events lie in [START, START + days)."""

    events: int
    """A multiple of 100."""
    pages: int = 5_000
    referrers: int = 1_000
    countries: int = 200
    days: int = 30

    @property
    def visitors(self) -> int:
        """Grows with the events: a visitor has 20 events at any size."""
        return self.events // EVENTS_A_VISITOR

    @property
    def end(self) -> datetime:
        return START + timedelta(days=self.days)


# A pseudo-random fraction in [0, 1), the same for the same numbers; a rank 0 … n-1 where the popularity of the k-th is
# as 1/k; one of the texts of a list.
_MACROS = """
CREATE TEMP MACRO fraction(number, salt) AS hash(number * 64 + salt) / 18446744073709551616.0::DOUBLE;
CREATE TEMP MACRO rank_of(n, fraction) AS floor(pow(n + 1, fraction))::INTEGER - 1;
CREATE TEMP MACRO one_of(texts, fraction) AS texts[1 + floor(fraction * len(texts))::INTEGER];
"""

_EVENTS = """
CREATE TABLE events AS
WITH placed AS (
    SELECT j,
           [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4][j % 25 + 1] + j // 25 * 5 AS s,
           [0, 0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11][j % 25 + 1] AS place
    FROM range($events) AS r (j)
), with_visitor AS (
    SELECT *, CASE WHEN s < $visitors THEN s ELSE floor(fraction(s, 1) * $visitors)::BIGINT END AS v FROM placed
), with_time AS (
    SELECT *,
        CASE WHEN s % 50 = 7 THEN 2400000000 ELSE (5 + fraction(s, 2) * 175) * 1000000 END AS gap_us,
        (fraction(s, 3) * $range_us + place * gap_us + fraction(j, 4) * 2000000)::BIGINT % $range_us AS offset_us,
        md5(j::VARCHAR) AS dice,
        j % 10 = 9 AS track
    FROM with_visitor
), with_id AS (
    SELECT *, ($start_us + offset_us)::BIGINT AS at_us, format('{:012x}', at_us // 1000) AS ms FROM with_time
), made AS (
    SELECT
        make_timestamp(at_us) AS occurred_at,
        make_timestamp(at_us + 50000) AS received_at,
        (ms[1:8] || '-' || ms[9:12] || '-7' || dice[1:3] || '-8' || dice[4:6] || '-' || dice[7:18])::UUID AS event_id,
        CASE WHEN track THEN 2 ELSE 1 END::TINYINT AS type,
        printf('visitor-%07d-00000000', v) AS visitor_id,
        CASE WHEN s % 50 <> 11 THEN printf('session-%08d', s) END AS session_id,
        CASE WHEN track THEN one_of(['signup', 'search', 'download', 'purchase', 'share'], fraction(j, 5)) END AS name,
        CASE WHEN NOT track OR fraction(j, 6) > 0.33
            THEN printf('/articles/%04d', rank_of($pages, fraction(j, 7))) END AS path,
        CASE WHEN NOT track THEN 'An article about something' END AS title,
        CASE WHEN fraction(s, 8) > 0.3
            THEN printf('https://site-%04d.example.org/', rank_of($referrers, fraction(s, 9))) END AS referrer,
        'web' AS source,
        one_of(['desktop', 'mobile', 'mobile', 'tablet'], fraction(v, 10)) AS device,
        one_of(['Chrome', 'Chrome', 'Safari', 'Firefox', 'Edge'], fraction(v, 11)) AS browser,
        one_of(['Windows', 'Android', 'iOS', 'macOS', 'Linux'], fraction(v, 12)) AS os,
        printf('C%03d', rank_of($countries, fraction(v, 13))) AS country,
        CASE WHEN fraction(s, 14) > 0.7
            THEN one_of(['newsletter', 'ads', 'partner', 'social'], fraction(s, 15)) END AS utm_source,
        CASE WHEN utm_source IS NOT NULL THEN one_of(['email', 'cpc', 'post'], fraction(s, 16)) END AS utm_medium,
        CASE WHEN utm_source IS NOT NULL
            THEN printf('campaign-%02d', rank_of(50, fraction(s, 17))) END AS utm_campaign,
        CASE WHEN track
            THEN printf('{"plan":"%s","seats":%d}', one_of(['free', 'pro'], fraction(j, 18)), j % 7) END AS properties
    FROM with_id
)
SELECT row_number() OVER () - 1 AS n, * FROM (SELECT * FROM made ORDER BY occurred_at, event_id)
"""


def open_dataset(file: Path, *, read_only: bool = True, threads: int = 2) -> duckdb.DuckDBPyConnection:
    """A connection to a dataset's file. Any number of processes may read it, or one may write."""
    connection = duckdb.connect(file, read_only=read_only, config={"threads": threads})
    connection.execute("SET enable_progress_bar = false")
    return connection


def generate(file: Path, shape: Shape) -> None:
    """Creates the table `events` in a new DuckDB file. `n` numbers the events by (occurred_at, event_id)."""
    with open_dataset(file, read_only=False) as connection:
        connection.execute(_MACROS)
        connection.execute(
            _EVENTS,
            {
                "events": shape.events,
                "visitors": shape.visitors,
                "pages": shape.pages,
                "referrers": shape.referrers,
                "countries": shape.countries,
                "range_us": shape.days * 86_400_000_000,
                "start_us": int(START.timestamp()) * 1_000_000,
            },
        )
