"""The edges of what an event may hold, and which events are one and the same."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from common.sites import ACTIVE, Site
from ingest_svc.event_rows import Row, to_rows
from ingest_svc.judge import MAX_TEXT_BYTES, Rejection, TimeBounds, checked_id, cut_text, kept_properties

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
SITE = Site(
    1,
    "shop",
    "Shop",
    ACTIVE,
    1_800_000_000,
    None,
    None,
    None,
    None,
    86_400_000_000,
    4,
    [],
    [],
    [],
    0,
    None,
    None,
    None,
    NOW,
    NOW,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=1200)


def row_of(**fields: Any) -> Row:
    """The row of one good event."""
    given_fields: dict[str, Any] = {"type": event_pb2.EVENT_TYPE_PAGEVIEW, "visitor_id": "v"} | fields
    event = ingest_pb2.Event(**given_fields)
    [row], errors = to_rows(ingest_pb2.IngestBatchRequest(events=[event]), SITE, NOW)
    assert errors == []
    return row


def at(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=int(NOW.timestamp()) + seconds, nanos=nanos)


# Lengths.


@given(texts)
def test_a_text_is_cut_to_its_longest_beginning_of_2000_bytes(text: str) -> None:
    """Never inside a character: one more would not fit."""
    cut = cut_text(text)
    assert text.startswith(cut)
    assert len(cut.encode()) <= MAX_TEXT_BYTES
    if cut != text:
        assert len((cut + text[len(cut)]).encode()) > MAX_TEXT_BYTES


@pytest.mark.parametrize(("before", "kept"), [(1996, 1), (1997, 0), (1999, 0), (2000, 0)])
def test_an_emoji_at_the_cut_is_kept_whole_or_not_at_all(before: int, kept: int) -> None:
    assert cut_text("a" * before + "😀😀") == "a" * before + "😀" * kept


@pytest.mark.parametrize("text", ["a" * 256, "é" * 128, "😀" * 64, "a" * 252 + "😀"])
def test_an_id_may_have_256_bytes_whatever_its_characters(text: str) -> None:
    assert checked_id("visitor_id", text) == text
    with pytest.raises(Rejection, match="ID_TOO_LONG"):
        checked_id("visitor_id", text + "a")


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=45), st.data())
def test_the_32_properties_that_are_kept_are_the_first_of_those_allowed(
    sent: dict[str, int], data: st.DataObject
) -> None:
    if any("\0" in key for key in sent):
        return
    names = st.sets(st.sampled_from(sorted(sent)) if sent else st.nothing())
    allowed, denied = data.draw(names), data.draw(names)
    properties = Struct()
    properties.update(sent)
    wanted = sorted(key for key in sent if key not in denied and (not allowed or key in allowed))
    kept = kept_properties(properties, frozenset(allowed), frozenset(denied))
    assert kept == {key: sent[key] for key in wanted[:32]}


# Times.


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (at(24 * 3600), None),
        (at(24 * 3600, 999), None),
        (at(24 * 3600, 1000), "OCCURRED_AT_TOO_NEW"),
        (at(-90 * 24 * 3600), None),
        (at(-90 * 24 * 3600 - 1, 999_999_999), "OCCURRED_AT_TOO_OLD"),
        (Timestamp(seconds=-(2**63)), "OCCURRED_AT_TOO_OLD"),
        (Timestamp(seconds=2**63 - 1), "OCCURRED_AT_TOO_NEW"),
        (at(0, -1), "OCCURRED_AT_INVALID"),
        (at(0, 1_000_000_000), "OCCURRED_AT_INVALID"),
    ],
)
def test_occurred_at_may_be_anything_from_the_retention_to_24_hours_ahead(value: Timestamp, reason: str | None) -> None:
    """Both ends included; nanoseconds are cut, not rounded."""
    bounds = TimeBounds.of(SITE, NOW)
    if reason is None:
        assert timedelta(microseconds=bounds.check(value)) == timedelta(seconds=value.seconds)
    else:
        with pytest.raises(Rejection, match=reason):
            bounds.check(value)


# Which events are one and the same.


def test_a_uuid_is_itself_in_either_case() -> None:
    """So that ids made in the order of time stay in that order."""
    text = "018df2f0-7c11-7abc-8def-0123456789ab"
    assert row_of(event_id=text).dedupe_key == row_of(event_id=text.upper()).dedupe_key == UUID(text).bytes


@pytest.mark.parametrize(
    "text", ["a", "018df2f07c117abc8def0123456789ab", "{018df2f0-7c11-7abc-8def-0123456789ab}", " "]
)
def test_any_other_id_is_a_hash_of_its_exact_text(text: str) -> None:
    keys = {row_of(event_id=sent).dedupe_key for sent in (text, text.upper() + " ", text + "\n")}
    assert len(keys) == 3
    for key in keys:
        assert key is not None
        assert len(key) == 16


def test_an_event_without_id_and_time_is_never_a_duplicate() -> None:
    one, other = row_of(), row_of()
    assert one.dedupe_key is other.dedupe_key is None
    assert one.fields != other.fields


CONTENT: dict[str, Any] = {
    "occurred_at": at(0),
    "visitor_id": "a",
    "session_id": "b",
    "name": "n",
    "path": "/p",
    "properties": {"x": 1, "y": "2"},
}
SAID = {"source": "web", "utm_campaign": "spring"}
WHOLE_CONTENT = CONTENT | {"title": "t", "referrer": "r", "user_id": "u", "context": SAID}


@pytest.mark.parametrize(
    "changed",
    [
        {"occurred_at": at(0, 1)},
        {"visitor_id": "ab", "session_id": ""},
        {"visitor_id": "", "session_id": "ab", "user_id": ""},
        {"visitor_id": 'a","b', "session_id": ""},
        {"type": event_pb2.EVENT_TYPE_TRACK},
        {"name": "n/p", "path": ""},
        {"properties": {"x": 1}},
        {"properties": {"x": "1", "y": "2"}},
        {"properties": {"x": 1, "y": 2}},
        {"properties": {"x": 1, "y": "2", "z": None}},
        {"title": "r", "referrer": "t"},
        {"title": "tr", "referrer": ""},
        {"title": "", "referrer": "", "user_id": "", "context": {}},
        {"user_id": "v"},
        {"path": '/p", "t', "title": ""},
        *({"context": SAID | {field.name: "another"}} for field in event_pb2.Context.DESCRIPTOR.fields),
        *({"context": SAID | {name: ""}} for name in SAID),
        {"context": {"source": "spring", "utm_campaign": "web"}},
    ],
)
def test_without_an_id_the_whole_content_decides(changed: dict[str, Any]) -> None:
    """However its parts are cut or spelled: no two contents meet."""
    if changed.get("visitor_id") == "":
        changed = changed | {"visitor_id": "c"}
    key = row_of(**WHOLE_CONTENT).dedupe_key
    assert key is not None
    assert row_of(**WHOLE_CONTENT).dedupe_key == key
    assert row_of(**(WHOLE_CONTENT | changed)).dedupe_key != key


def test_without_an_id_the_content_counts_as_it_was_sent() -> None:
    """Also what is not stored of it: what follows 2,000 bytes of a text or 32 properties."""
    long, many = "t" * 2_000, {f"{number:02}": number for number in range(32)}
    for one, other in (
        ({"title": long}, {"title": f"{long}!"}),
        ({"referrer": long}, {"referrer": f"{long}!"}),
        ({"context": {"browser": long}}, {"context": {"browser": f"{long}!"}}),
        ({"properties": many | {"32": 1}}, {"properties": many | {"32": 2}}),
    ):
        assert row_of(**(WHOLE_CONTENT | one)).dedupe_key != row_of(**(WHOLE_CONTENT | other)).dedupe_key


@given(st.data())
def test_without_an_id_it_does_not_matter_which_part_of_the_content_is_a_default(data: st.DataObject) -> None:
    """And an event's own field hides the default."""
    shared: dict[str, Any] = {name: WHOLE_CONTENT[name] for name in ("visitor_id", "session_id", "user_id", "context")}
    own: dict[str, Any] = {name: value for name, value in WHOLE_CONTENT.items() if name not in shared}
    defaults = ingest_pb2.EventDefaults()
    event = ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, **own)
    for name in ("visitor_id", "session_id", "user_id"):
        as_default, hidden = data.draw(st.booleans()), data.draw(st.booleans())
        setattr(defaults if as_default else event, name, shared[name])
        if not as_default and hidden:
            setattr(defaults, name, "hidden")
    for name, value in SAID.items():
        setattr((defaults if data.draw(st.booleans()) else event).context, name, value)
    [row], errors = to_rows(ingest_pb2.IngestBatchRequest(defaults=defaults, events=[event]), SITE, NOW)
    assert not errors
    assert row.dedupe_key == row_of(**WHOLE_CONTENT).dedupe_key


def test_an_event_without_title_referrer_user_and_context_has_the_hash_that_older_releases_gave_it() -> None:
    """So that it is known when it is sent again across an upgrade. The bytes were taken from release 0.1.0."""
    key = row_of(**CONTENT).dedupe_key
    assert key is not None
    assert key.hex() == "2abb61aaa8faa461fcc0899df92cae23"


def test_the_order_of_properties_and_white_space_around_the_name_are_no_part_of_the_content() -> None:
    turned = {"properties": {"y": "2", "x": 1}, "name": " n\t"}
    assert row_of(**(CONTENT | turned)).dedupe_key == row_of(**CONTENT).dedupe_key


def test_an_id_that_looks_like_content_is_not_that_content() -> None:
    """Ids and contents are hashed apart."""
    key = row_of(**CONTENT).dedupe_key
    assert row_of(**CONTENT, event_id="b").dedupe_key != key


@given(texts)
def test_a_visitors_events_are_all_in_one_partition(visitor: str) -> None:
    if "\0" in visitor or not 0 < len(visitor.encode()) <= 256:
        return
    partitions = {row_of(visitor_id=visitor, path=path, session_id=path).partition for path in ("", "/a", "/b")}
    assert len(partitions) == 1
    assert partitions <= set(range(4))
