"""The comparisons of `footfall verify`: each answer of a site with its recount."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import compress
from typing import NamedTuple

from footfall.query.v1 import query_pb2
from footfall.query.v1.query_pb2_grpc import QueryServiceStub
from google.protobuf.json_format import MessageToDict

from cli.erased_hours import ErasedHours
from cli.recount_sql import EVENT_DIMENSIONS, SESSION_DIMENSIONS, TOUCH, Measures, Recount, Visitor
from cli.report_range import time_range

MAX_ROWS = 1_000
_RANDOM_RANGES = 20
_BUCKETS_A_CALL = 2_000
_HOUR = timedelta(hours=1)

Span = tuple[datetime, datetime]
Values = tuple[object, ...]


class Check(NamedTuple):
    """One answer to compare. If it differs, both sides are read again, because events may have come in between."""

    what: str
    counted: Callable[[Recount], object]
    answered: Callable[[QueryServiceStub], object]


class Checks:
    """All comparisons over a span of a site."""

    def __init__(self, site: str, span: Span, erased: ErasedHours, *, whole: bool) -> None:
        """Nothing that touches an incomplete hour is compared. `whole` tells whether all raw events are there. Without
        the oldest, new visitors cannot be recounted."""
        self._site = site
        self._span = span
        self._erased = erased
        self._whole = whole

    def __iter__(self) -> Iterator[Check]:
        """Overview, hours, days, visitors and every dimension of the span, and overviews and two dimensions of random
        ranges."""
        for interval, step in ((query_pb2.INTERVAL_HOUR, _HOUR), (query_pb2.INTERVAL_DAY, 24 * _HOUR)):
            yield from self._timeseries(interval, step)
        if not self._erased.touch(*self._span):
            yield self._overview(self._span)
            for dimension in (*EVENT_DIMENSIONS, *SESSION_DIMENSIONS):
                yield self._top(dimension, self._span)
        yield self._visitors()
        rng = random.Random(f"{self._site} {self._span}")  # noqa: S311  # no secret; the same ranges every time
        start, end = self._span
        for _ in range(_RANDOM_RANGES):
            first, last = sorted(start + (end - start) * rng.random() for _ in range(2))
            if first < last and not self._erased.touch(first, last):
                yield self._overview((first, last))
                yield self._top("page", (first, last))
                yield self._top("exit_page", (first, last))

    def _overview(self, span: Span) -> Check:
        request = query_pb2.GetOverviewRequest(site=self._site, range=time_range(*span))
        return Check(
            f"overview of {_shown(span)}",
            lambda recount: self._counted(recount.totals(*span)),
            lambda query: self._answered(query.GetOverview(request).metrics),
        )

    def _timeseries(self, interval: query_pb2.Interval.ValueType, step: timedelta) -> Iterator[Check]:
        start, end = self._span
        floor = start - (start - datetime(1970, 1, 1, tzinfo=UTC)) % step
        while floor < end:
            part = (max(floor, start), min(floor + _BUCKETS_A_CALL * step, end))
            starts = [part[0]]
            while (following := _next(starts[-1], floor, step)) < part[1]:
                starts.append(following)
            yield self._buckets(interval, starts, part)
            floor += _BUCKETS_A_CALL * step

    def _buckets(self, interval: query_pb2.Interval.ValueType, starts: list[datetime], span: Span) -> Check:
        ends = [*starts[1:], span[1]]
        whole = [not self._erased.touch(*bucket) for bucket in zip(starts, ends, strict=True)]
        compared = frozenset(compress(starts, whole))
        request = query_pb2.GetTimeseriesRequest(site=self._site, range=time_range(*span), interval=interval)
        return Check(
            f"{query_pb2.Interval.Name(interval)} of {_shown(span)}",
            lambda recount: [*compress(map(self._counted, recount.per_bucket(starts, span[1])), whole)],
            lambda query: [
                self._answered(one.metrics)
                for one in query.GetTimeseries(request).buckets
                if one.start_time.ToDatetime(UTC) in compared
            ],
        )

    def _top(self, dimension: str, span: Span) -> Check:
        number = query_pb2.Dimension.Value(f"DIMENSION_{dimension.upper()}")
        request = query_pb2.GetTopRequest(site=self._site, range=time_range(*span), dimension=number, limit=MAX_ROWS)

        def counted(recount: Recount) -> object:
            measured = sorted(
                recount.per_key(dimension, *span).items(), key=lambda row: (-row[1].events, row[0].encode())
            )
            return [(key, self._counted(one)) for key, one in measured[:MAX_ROWS]]

        return Check(
            f"{dimension} of {_shown(span)}",
            counted,
            lambda query: [(row.key, self._answered(row.metrics)) for row in query.GetTop(request).rows],
        )

    def _visitors(self) -> Check:
        """The visitors who were first seen in the span. Without the oldest events, those who were last seen in it, and
        without first touch, user and traits, because these may come from events that are gone."""
        start, end = self._span

        def told(visitors: Iterator[Visitor]) -> dict[str, Values]:
            if self._whole:
                return {one.visitor_id: tuple(one) for one in visitors if start <= one.first_seen < end}
            return {one.visitor_id: (one.last_seen, one.last_touch) for one in visitors if start <= one.last_seen < end}

        span = self._span if self._whole else None
        return Check(
            f"visitors of {_shown(self._span)}",
            lambda recount: told(iter(recount.visitors())),
            lambda query: told(_listed(query, self._site, span)),
        )

    def _counted(self, counted: Measures) -> Values:
        sessions = counted.sessions
        return self._known(
            counted.events,
            counted.pageviews,
            counted.visitors,
            sessions,
            round(counted.bounces / sessions, 9) if sessions else 0.0,
            round(counted.duration_us / sessions) if sessions else 0,
            counted.new_visitors,
        )

    def _answered(self, metrics: query_pb2.Metrics) -> Values:
        duration = metrics.average_session_duration
        return self._known(
            metrics.events,
            metrics.pageviews,
            metrics.visitors,
            metrics.sessions,
            round(metrics.bounce_rate, 9),
            duration.seconds * 1_000_000 + duration.nanos // 1000,
            metrics.new_visitors,
        )

    def _known(self, *measures: object) -> Values:
        """The measures that can be recounted. The last one, new_visitors, cannot without the oldest events."""
        return measures if self._whole else measures[:-1]


def _listed(query: QueryServiceStub, site: str, span: Span | None) -> Iterator[Visitor]:
    """The list of visitors, page by page."""
    request = query_pb2.ListVisitorsRequest(site=site, range=time_range(*span) if span else None, page_size=MAX_ROWS)
    while True:
        page = query.ListVisitors(request)
        for one in page.visitors:
            yield Visitor(
                one.visitor_id,
                one.first_seen_at.ToDatetime(UTC),
                one.last_seen_at.ToDatetime(UTC),
                _touch(one.first_touch),
                _touch(one.last_touch),
                one.user_id,
                MessageToDict(one.traits),
            )
        if not page.has_more:
            return
        request.page_token = page.next_page_token


def _touch(said: query_pb2.Touch) -> list[str]:
    return [getattr(said if name in ("path", "referrer") else said.context, name) for name in TOUCH]


def _next(instant: datetime, origin: datetime, step: timedelta) -> datetime:
    return instant + step - (instant - origin) % step


def _shown(span: Span) -> str:
    return f"{span[0].isoformat()} – {span[1].isoformat()}"
