"""Whatever a text holds, it is in the database as it was sent."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from hypothesis import given
from hypothesis import strategies as st

from common.db import Database
from common.migrate import migrate
from common.sites import Site, find_site
from ingest_svc.event_rows import to_rows
from ingest_svc.store_events import BatchNumbers, Incoming, store_events
from tests.support.site_rows import make_site
from tests.support.suite import database_on

COLUMNS = ("session_id", "user_id", "name", "path", "title", "referrer", "source", "device", "browser", "utm_source")

# Anything that a string of a message can be; a NUL is rejected before.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
tricky = st.lists(
    st.sampled_from(["\t", "\n", "\r", "\\", "\\N", "\\.", "\n\\.\n", "\v", "\x1f", "\x7f", "'", "😀", "\u2028"]),
    max_size=8,
)
contents = st.one_of(texts, tricky.map("".join), st.builds(str.__add__, texts, tricky.map("".join)))
numbers = st.floats(allow_nan=False, allow_infinity=False)


@dataclass
class Shop:
    """A site on a database of its own."""

    db: Database
    site: Site


@pytest.fixture(scope="module")
def shop(postgres_url: str) -> Iterator[Shop]:
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.transaction() as connection:
            make_site(connection, "shop")
        with db.connection() as raw:
            yield Shop(db, find_site(raw, "shop"))
        db.close()


@given(
    st.fixed_dictionaries(dict.fromkeys(COLUMNS, contents)),
    st.dictionaries(texts, st.one_of(contents, numbers, st.booleans(), st.none()), max_size=5),
    st.booleans(),
)
def test_any_text_is_stored_as_it_was_sent(
    shop: Shop, sent: dict[str, str], properties: dict[str, Any], as_defaults: bool
) -> None:
    """On the event or as a default of the batch, in texts, ids and properties; the empty text is NULL."""
    context: Any = {name: sent[name] for name in ("source", "device", "browser", "utm_source")}
    shared: dict[str, Any] = {name: sent[name] for name in ("session_id", "user_id")}
    own: dict[str, Any] = {name: sent[name] for name in ("name", "path", "title", "referrer")}
    event = ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id="v", **own)
    request = ingest_pb2.IngestBatchRequest(events=[event, event])
    if as_defaults:
        request.defaults.MergeFrom(ingest_pb2.EventDefaults(context=context, **shared))
    else:
        request.events[0].MergeFrom(ingest_pb2.Event(context=context, **shared))
    request.events[0].properties.update(properties)
    now = datetime.now(UTC)
    rows, errors = to_rows(request, shop.site, now)
    assert errors == []
    with shop.db.connection() as connection, connection.transaction(force_rollback=True):
        assert store_events(connection, BatchNumbers(), [Incoming(shop.site, rows, now)], now) == [2]
        query = f"SELECT {', '.join(COLUMNS)}, properties FROM events ORDER BY ord"
        first, second = connection.execute(query).fetchall()
    assert first[:-1] == tuple(stored(name, sent[name]) for name in COLUMNS)
    assert as_doubles(first[-1]) == (properties or None)
    assert second[2:6] == first[2:6]
    assert (second[:2] == first[:2]) == (as_defaults or not any(shared.values()))


def stored(column: str, text: str) -> str | None:
    """What becomes of a text; names lose the white space around them."""
    return (text.strip() if column == "name" else text) or None


def as_doubles(properties: dict[str, Any] | None) -> dict[str, Any] | None:
    """Numbers as a message holds them; whole ones are stored as people write them."""
    return properties and {key: float(it) if type(it) is int else it for key, it in properties.items()}
