"""Plays histories on real sites and holds their answers and tables against the recount."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from footfall.admin.v1 import admin_pb2
from footfall.query.v1 import query_pb2
from google.protobuf import field_mask_pb2

from admin_svc.counting import compact
from tests.oracle.raw_events import DAY, RawEvent, stored_id
from tests.oracle.recount import Recount
from tests.oracle.tables import Tables, expected_tables, stored_tables
from tests.property.requests import duration, request_of
from tests.property.streams import Aggregate, Ask, ChangePartitions, Compact, Rebuild, Send, Step, Stream, whole
from tests.support import upkeep
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.hands import LATER, Hands

# The events of a site that are not aggregated yet.
_PENDING = """
SELECT e.event_id FROM pending_batches p
JOIN events e ON e.site_id = p.site_id AND e.batch_id = p.batch_id AND e.ord BETWEEN p.first_ord AND p.last_ord
WHERE p.site_id = %s
"""


class PlayedSite:
    """A fresh site, and what has been acknowledged on it."""

    def __init__(self, hands: Hands, stream: Stream, **settings: Any) -> None:
        self.hands, self.stream = hands, stream
        settings |= {"session_timeout": duration(stream.timeout), "rollup_shard_count": stream.partitions}
        self.site = FootfallSite(hands.suite, "law", **settings)
        self.site_id = hands.site_id(self.site)
        self.accepted: dict[UUID, RawEvent] = {}
        self._keys = [self.site.as_sender]
        self._rebuild = ""

    @staticmethod
    def by_id(events: Sequence[RawEvent]) -> dict[UUID, RawEvent]:
        """The events by what their ids are stored as."""
        return {stored_id(event.event_id): event for event in events}

    def do(self, step: Step) -> None:
        """One step of a history, whichever site it names."""
        match step:
            case Send():
                self.send(step)
            case Aggregate():
                self.aggregate(step.limit, by_rpc=step.by_rpc)
            case Compact():
                self.compact(step.limit)
            case Rebuild():
                self.rebuild(step.limit)
            case ChangePartitions():
                self.change_partitions(step.partitions)
            case Ask():
                self.check_answers([step.span])

    def send(self, step: Send) -> None:
        """Sends a batch; of an event that was sent before nothing but `duplicate` may come."""
        response = self.site.ingest.IngestBatch(
            request_of(step.events, with_defaults=step.with_defaults), metadata=self._keys[step.key % len(self._keys)]
        )
        new = {id_: event for id_, event in self.by_id(step.events).items() if id_ not in self.accepted}
        told = (response.accepted, response.duplicate, response.rejected)
        assert told == (len(new), len(step.events) - len(new), 0)
        self.accepted |= new

    def aggregate(self, limit: int, *, by_rpc: bool = False) -> int:
        """One chunk of aggregation; how many events it took."""
        if by_rpc:
            request = admin_pb2.AggregatePendingRequest(site=self.site.slug, limit=limit)
            answer = self.site.operator.AggregatePending(request, metadata=self.site.as_admin)
            assert answer.failed == 0
            aggregated: int = answer.aggregated
            return aggregated
        chunk = self.hands.aggregator.aggregate(self.hands.connection, self.site_id, LATER, limit)
        assert chunk.done.failed == 0
        return chunk.done.aggregated

    def rebuild(self, limit: int) -> bool:
        """One chunk of a rebuild; whether it needs another."""
        request = admin_pb2.RebuildSiteRequest(site=self.site.slug, limit=limit, page_token=self._rebuild)
        chunk = self.site.operator.RebuildSite(request, metadata=self.site.as_admin)
        assert chunk.failed == 0
        assert chunk.has_more == (chunk.next_page_token != "")
        self._rebuild = chunk.next_page_token
        return chunk.has_more

    def finish_rebuild(self, limit: int = 1_000) -> None:
        """The rest of the rebuild under way, if there is one."""
        while self._rebuild and self.rebuild(limit):
            pass

    def clearing(self) -> bool:
        """Whether a rebuild is queueing or clearing: then tables and answers are not whole, and say so."""
        row = self.hands.connection.execute(
            "SELECT EXISTS (SELECT FROM rebuilds WHERE site_id = %s AND phase < 3)", (self.site_id,)
        ).fetchone()
        assert row is not None
        return bool(row[0])

    def compact(self, limit: int) -> int:
        """One chunk of compaction, which changes nothing that the tables say; how many deltas it took."""
        before = self.tables()
        compacted = compact.compact(self.hands.connection, self.site_id, LATER, limit).done.deltas
        assert compacted <= limit
        assert self.tables() == before
        return compacted

    def change_partitions(self, partitions: int) -> None:
        """A new number of partitions, and a write key that no process has cached with an older one."""
        changed = admin_pb2.Site(slug=self.site.slug, settings=admin_pb2.SiteSettings(rollup_shard_count=partitions))
        mask = field_mask_pb2.FieldMask(paths=["settings.rollup_shard_count"])
        update = admin_pb2.UpdateSiteRequest(site=changed, update_mask=mask)
        self.site.operator.UpdateSite(update, metadata=self.site.as_admin)
        request = admin_pb2.CreateApiKeyRequest(
            site=self.site.slug, kind=admin_pb2.API_KEY_KIND_WRITE, name=f"{partitions} partitions"
        )
        made = self.site.operator.CreateApiKey(request, metadata=self.site.as_admin)
        self._keys.append((("x-write-key", made.key),))

    def drain(self, limit: int = 1_000) -> None:
        """Finishes a rebuild and aggregates whatever is pending."""
        self.finish_rebuild(limit)
        while self.aggregate(limit):
            pass
        assert not self.pending()

    def compact_all(self, limit: int = 1_000) -> None:
        """Compacts every delta."""
        before = self.tables()
        upkeep.compact(self.site, limit)
        assert self.tables() == before

    def tables(self) -> Tables:
        """The derived tables."""
        return stored_tables(self.hands.connection, self.site_id)

    def pending(self) -> set[UUID]:
        """The events that are not aggregated yet."""
        return self.pending_events(self.hands.connection)

    def pending_events(self, connection: psycopg.Connection[Any]) -> set[UUID]:
        """The same, asked over the caller's connection."""
        return {row[0] for row in connection.execute(_PENDING, (self.site_id,))}

    def recount(self) -> Recount:
        """The recount over the aggregated events."""
        pending = self.pending()
        events = [event for id_, event in self.accepted.items() if id_ not in pending]
        return Recount(events, self.stream.timeout)

    def check(self, spans: Sequence[tuple[int, int]] = ()) -> None:
        """Tables and answers are the recount's, over everything and over the ranges given."""
        self.check_tables()
        self.check_answers([whole(self.stream), *spans])

    def check_tables(self) -> None:
        """Visitors, sessions and rollups are those of the aggregated events, and each day is the sum of its hours."""
        if self.clearing():
            return
        tables, expected = self.tables(), expected_tables(self.recount())
        for name in Tables._fields:
            assert getattr(tables, name) == getattr(expected, name), name
        assert days_of(tables.hours) == {place: row[0] for place, row in tables.days.items() if any(row[0])}

    def check_answers(self, spans: Sequence[tuple[int, int]]) -> None:
        """Every report and list of the ranges, and what they say of the pending events."""
        recount, everything = self.recount(), Recount(self.accepted.values(), self.stream.timeout)
        pending = len(self.accepted) - len(recount.all_events)
        clearing = self.clearing()
        for start, end in spans:
            request = query_pb2.GetOverviewRequest(site=self.site.slug, range=time_range(start, end))
            metadata = self.site.query.GetOverview(request, metadata=self.site.as_admin).metadata
            assert (metadata.pending_events, metadata.failed_events, metadata.exact) == (pending, 0, not clearing)
            assert metadata.effective_range == time_range(start, end)
            if clearing:
                continue
            for query, expected, answered in self.site.compare(recount, start, end):
                if query == "events":  # the list shows pending ones too
                    stored_events = everything.events(start, end)
                    expected = [replace(event, name=event.name.strip()) for event in stored_events]
                assert answered == expected, (query, start, end)


def play(hands: Hands, streams: Sequence[Stream], history: Sequence[Step]) -> list[PlayedSite]:
    """Plays the history on fresh sites and finishes a rebuild; what is pending or not compacted is left so."""
    sites = [PlayedSite(hands, stream) for stream in streams]
    for step in history:
        sites[step.site].do(step)
    for site in sites:
        site.finish_rebuild()
    return sites


def days_of(hours: dict[tuple[int, int, str], Any]) -> dict[tuple[int, int, str], tuple[int, ...]]:
    """The counters of each day as the sum of its hours'."""
    days: dict[tuple[int, int, str], tuple[int, ...]] = {}
    for (dimension, start, key), (counters, _) in hours.items():
        place = (dimension, start // DAY * DAY, key)
        days[place] = tuple(map(sum, zip(days.get(place, (0,) * 6), counters, strict=True)))
    return {place: counters for place, counters in days.items() if any(counters)}
