"""The limits of a batch and of an event: over them, a reason, a field, and nothing half-done."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from google.protobuf import struct_pb2, timestamp_pb2

from tests.oracle.raw_events import CONTEXT_FIELDS
from tests.support.footfall_site import FootfallSite
from tests.support.refusals import batch, event, invalid, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

PAGEVIEW, TRACK = event_pb2.EVENT_TYPE_PAGEVIEW, event_pb2.EVENT_TYPE_TRACK
MEBIBYTE = 1024 * 1024
LIFE = 0, 4_000_000_000_000_000


def track(**properties: Any) -> ingest_pb2.Event:
    made = event(type=TRACK, name="thing")
    made.properties.update(properties)
    return made


def batch_of_size(size: int) -> ingest_pb2.IngestBatchRequest:
    """A batch of one event that has so many bytes on the wire."""
    made = batch(event(title="t" * size))
    made.events[0].title = "t" * (2 * size - made.ByteSize())
    assert made.ByteSize() == size
    return made


def from_now(delta: timedelta) -> timestamp_pb2.Timestamp:
    made = timestamp_pb2.Timestamp()
    made.FromDatetime(datetime.now(UTC) + delta)
    return made


@pytest.fixture
def fresh(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "limits-fresh")


# What a batch may be.


def test_an_empty_batch_is_accepted_as_nothing(fresh: FootfallSite) -> None:
    assert fresh.send(batch()) == ingest_pb2.IngestBatchResponse()
    assert fresh.events() == []


def test_500_events_are_a_batch_and_501_are_refused_whole(fresh: FootfallSite) -> None:
    events = [event(event_id=f"{number}") for number in range(501)]
    assert refusal_of(fresh.send, batch(*events)) == invalid("BATCH_TOO_MANY_EVENTS", "events")
    assert fresh.events() == []
    assert fresh.send(batch(*events[:500])).accepted == 500


def test_4_mebibytes_are_a_batch_and_a_byte_more_is_refused_whole(fresh: FootfallSite) -> None:
    over = batch_of_size(4 * MEBIBYTE + 1)
    assert refusal_of(fresh.send, over) == invalid("MESSAGE_TOO_LARGE", "events")
    assert fresh.events() == []
    assert fresh.send(batch_of_size(4 * MEBIBYTE)).accepted == 1


def test_an_event_without_any_visitor_is_rejected_alone(fresh: FootfallSite) -> None:
    """Its neighbours are stored; the default visitor will do."""
    events = [event(event_id="1"), event(event_id="2", visitor_id=""), event(event_id="3")]
    response = fresh.send(batch(*events))
    assert (response.accepted, response.rejected) == (2, 1)
    [error] = response.errors
    assert (error.index, error.reason) == (1, "VISITOR_REQUIRED")
    assert len(fresh.events()) == 2
    assert fresh.send(batch(events[1], visitor_id="default")).accepted == 1


@pytest.mark.parametrize(
    ("defaults", "reason", "field"),
    [
        ({"visitor_id": "v" * 257}, "ID_TOO_LONG", "defaults.visitor_id"),
        ({"session_id": "é" * 129}, "ID_TOO_LONG", "defaults.session_id"),
        ({"user_id": "a\0b"}, "TEXT_HAS_NUL", "defaults.user_id"),
        ({"context": event_pb2.Context(os="\0")}, "TEXT_HAS_NUL", "defaults.context.os"),
    ],
)
def test_bad_defaults_refuse_their_batch(
    fresh: FootfallSite, defaults: dict[str, Any], reason: str, field: str
) -> None:
    assert refusal_of(fresh.send, batch(event(), **defaults)) == invalid(reason, field)
    assert fresh.events() == []


def test_a_stream_answers_in_order_until_a_batch_is_refused(fresh: FootfallSite) -> None:
    """What came before the refused one is kept, it and what comes after are not."""
    sizes = (2, 0, 3, 501, 1)
    requests = [ingest_pb2.IngestStreamRequest(events=[event() for _ in range(size)]) for size in sizes]
    answers = iter(fresh.ingest.IngestStream(iter(requests), metadata=fresh.as_sender))
    assert [next(answers).accepted for _ in range(3)] == [2, 0, 3]
    assert refusal_of(next, answers) == invalid("BATCH_TOO_MANY_EVENTS", "events")
    assert len(fresh.events()) == 5


# What an event may be.

NESTED = struct_pb2.Struct(fields={"plan": struct_pb2.Value(struct_value=struct_pb2.Struct())})
LISTED = struct_pb2.Struct(fields={"plan": struct_pb2.Value(list_value=struct_pb2.ListValue())})
BAD_EVENTS = {
    "no type": (event(type=0), "EVENT_TYPE_REQUIRED", "type"),
    "an unknown type": (event(type=77), "EVENT_TYPE_REQUIRED", "type"),
    "a track without a name": (event(type=TRACK), "EVENT_NAME_REQUIRED", "name"),
    "a track with a blank name": (event(type=TRACK, name=" \t"), "EVENT_NAME_REQUIRED", "name"),
    "a nested property": (event(properties=NESTED), "PROPERTY_NOT_SCALAR", "plan"),
    "a list property": (event(properties=LISTED), "PROPERTY_NOT_SCALAR", "plan"),
    "an infinite property": (track(plan=float("inf")), "PROPERTY_NOT_FINITE", "plan"),
    "a property that is no number": (track(plan=float("nan")), "PROPERTY_NOT_FINITE", "plan"),
    "4,097 bytes in one value": (track(a="é" * 2048 + "x"), "PROPERTIES_TOO_LARGE", "properties"),
    "4,097 bytes in two values": (track(a="x" * 2048, b="x" * 2049), "PROPERTIES_TOO_LARGE", "properties"),
    "NUL in a property": (track(plan="\0"), "TEXT_HAS_NUL", "plan"),
    "NUL in a property's key": (track(**{"a\0": 1}), "TEXT_HAS_NUL", "properties"),
    "a time before raw retention": (
        event(occurred_at=from_now(-timedelta(days=90, minutes=1))), "OCCURRED_AT_TOO_OLD", "occurred_at"
    ),
    "a time over a day ahead": (
        event(occurred_at=from_now(timedelta(days=1, minutes=10))), "OCCURRED_AT_TOO_NEW", "occurred_at"
    ),
    "a time with too many nanoseconds": (
        event(occurred_at=timestamp_pb2.Timestamp(nanos=10**9)), "OCCURRED_AT_INVALID", "occurred_at"
    ),
    "a time before Christ": (
        event(occurred_at=timestamp_pb2.Timestamp(seconds=-(10**12))), "OCCURRED_AT_TOO_OLD", "occurred_at"
    ),
    "a time after all calendars": (
        event(occurred_at=timestamp_pb2.Timestamp(seconds=10**15)), "OCCURRED_AT_TOO_NEW", "occurred_at"
    ),
} | {
    f"257 bytes of {name}": (event(type=TRACK, **{"name": "n", name: "é" * 128 + "x"}), "ID_TOO_LONG", name)
    for name in ("event_id", "name", "visitor_id", "session_id", "user_id")
} | {
    f"NUL in {name}": (event(type=TRACK, **{"name": "n", name: "a\0b"}), "TEXT_HAS_NUL", name)
    for name in ("event_id", "name", "visitor_id", "session_id", "user_id", "path", "title", "referrer")
} | {
    f"NUL in context.{name}": (event(context=event_pb2.Context(**{name: "\0"})), "TEXT_HAS_NUL", name)
    for name in ("source", *CONTEXT_FIELDS)
}  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "reason", "named"), [pytest.param(*case, id=name) for name, case in BAD_EVENTS.items()]
)
def test_a_bad_event_is_rejected_and_its_neighbours_are_kept(
    suite: "Suite", bad: ingest_pb2.Event, reason: str, named: str
) -> None:
    """The answer has its index, a reason, and a message that names the field."""
    site = FootfallSite(suite, "limits-rejected", retention_days=90)
    response = site.send(batch(event(title="before"), bad, event(title="after"), bad))
    assert (response.accepted, response.duplicate, response.rejected) == (2, 0, 2)
    assert [(error.index, error.reason) for error in response.errors] == [(1, reason), (3, reason)]
    for error in response.errors:
        assert re.search(rf"(?<![a-z_]){named}(?![a-z_])", error.message), error.message
    assert {stored.title for stored in site.events()} == {"before", "after"}


@pytest.mark.parametrize(
    "good",
    [
        *(event(type=TRACK, **{"name": "n", name: "é" * 128}) for name in ("event_id", "name", "session_id")),
        *(event(**{name: "x" * 256}) for name in ("visitor_id", "user_id")),
        track(a="é" * 1024, b="x" * 2048),
        event(occurred_at=from_now(timedelta(hours=23, minutes=50))),
        event(occurred_at=from_now(-timedelta(days=89, hours=23))),
    ],
)
def test_what_just_fits_is_kept_as_sent(fresh: FootfallSite, good: ingest_pb2.Event) -> None:
    assert fresh.send(batch(good)).accepted == 1
    [stored] = fresh.events()
    for name in ("name", "session_id", "visitor_id", "user_id"):
        assert getattr(stored, name) == getattr(good, name)
    assert stored.event_id == good.event_id or not good.event_id
    assert stored.properties == dict(good.properties)
    assert stored.occurred_at == good.occurred_at.ToMicroseconds() or not good.HasField("occurred_at")


def test_path_title_referrer_and_context_are_cut_to_2000_bytes_between_characters(
    fresh: FootfallSite,
) -> None:
    context = event_pb2.Context(**dict.fromkeys(("source", *CONTEXT_FIELDS), "x" + "é" * 1000))
    sent = event(path="/" + "é" * 1500, title="€" * 667, referrer="r" * 2001, context=context)
    fresh.send(batch(sent, event(path="/" + "p" * 1999, title="é" * 1000, referrer="😀" * 500)))
    whole, cut = sorted(fresh.events(), key=lambda stored: stored.path, reverse=True)[::-1]
    assert (whole.path, whole.title, whole.referrer) == ("/" + "p" * 1999, "é" * 1000, "😀" * 500)
    assert (cut.path, cut.title, cut.referrer) == ("/" + "é" * 999, "€" * 666, "r" * 2000)
    for name in ("source", *CONTEXT_FIELDS):
        assert getattr(cut, name) == "x" + "é" * 999
    assert fresh.aggregate() == 2
    assert {key for key, _ in fresh.top("page", *LIFE)} == {whole.path, cut.path}


def test_the_first_32_properties_are_kept_after_the_allow_and_deny_lists(suite: "Suite") -> None:
    """What the lists or the cap drop makes no event bad."""
    keys = [f"k{number:02}" for number in range(40)]
    lists = {"allowed_property_keys": keys, "denied_property_keys": ["k00", "k07", "a1"]}
    site = FootfallSite(suite, "limits-keys", **lists)
    sent: dict[str, Any] = {f"a{number}": {"nested": True} for number in range(40)} | dict.fromkeys(keys, 1)
    site.send(batch(track(**sent | {"k07": "x" * 5000, "k39": ["capped"]})))
    [stored] = site.events()
    assert sorted(stored.properties) == [key for key in keys if key not in ("k00", "k07")][:32]
