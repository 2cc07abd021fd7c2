"""When a key was last used: noted by calls, written seldom, and told by ListApiKeys."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from footfall.admin.v1 import admin_pb2

from common.db import Database
from common.keys.use import STORED_AGAIN_AFTER, KeyUse
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually
from tests.support.refusals import batch, event

if TYPE_CHECKING:
    from tests.support.suite import Suite

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Uses:
    """A KeyUse that a test drives, with a clock of the test's own."""

    def __init__(self, db: Database) -> None:
        self.now = START
        self.made = KeyUse(db, lambda: self.now)
        # No thread of its own: the test stores.
        self.made._thread = _NoThread()  # type: ignore[assignment]

    def use(self, *key_ids: int) -> None:
        for key_id in key_ids:
            self.made.note(key_id)
        self.made.store()


class _NoThread:
    def join(self, _seconds: float) -> None:
        pass


@pytest.fixture
def db(suite: "Suite") -> Iterator[Database]:
    made = Database(suite.database_url, application="test")
    yield made
    made.close()


@pytest.fixture
def uses(db: Database) -> Uses:
    return Uses(db)


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "key-use")


def keys_of(site: FootfallSite) -> list[admin_pb2.ApiKey]:
    return list(
        site.operator.ListApiKeys(admin_pb2.ListApiKeysRequest(site=site.slug), metadata=site.as_admin).api_keys
    )


def new_key(site: FootfallSite) -> int:
    request = admin_pb2.CreateApiKeyRequest(kind=admin_pb2.API_KEY_KIND_WRITE, site=site.slug, name="second")
    return int(site.operator.CreateApiKey(request, metadata=site.as_admin).api_key.id)


def stored(database: psycopg.Connection[Any], key_id: int) -> Any:
    row = database.execute("SELECT last_used_at, xmin::text FROM api_keys WHERE key_id = %s", (key_id,)).fetchone()
    assert row is not None
    return row


def test_a_key_that_was_used_says_so(site: FootfallSite) -> None:
    """Within some seconds; one that was not does not."""
    unused = new_key(site)
    assert not any(key.HasField("last_used_time") for key in keys_of(site))
    before = datetime.now(UTC)
    site.send(batch(event()))

    def used() -> dict[int, datetime]:
        return {key.id: key.last_used_time.ToDatetime(UTC) for key in keys_of(site) if key.HasField("last_used_time")}

    found = eventually(used)
    assert unused not in found
    (at,) = found.values()
    assert before - timedelta(milliseconds=1) <= at <= datetime.now(UTC)


def test_the_admin_key_has_a_last_use_too(suite: "Suite", database: psycopg.Connection[Any]) -> None:
    """Also of calls of the query and the admin service."""
    eventually(
        lambda: database.execute(
            "SELECT last_used_at FROM api_keys WHERE site_id IS NULL AND last_used_at IS NOT NULL"
        ).fetchone()
    )


def test_a_row_is_written_once_a_minute_at_most(
    uses: Uses, db: Database, site: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """However often the key is used, and by however many processes."""
    key_id = new_key(site)
    other = Uses(db)
    uses.use(key_id, key_id)
    first = stored(database, key_id)
    assert first[0] == START
    for seconds in (1, 30, 59):
        uses.now = other.now = START + timedelta(seconds=seconds)
        uses.use(key_id)
        other.use(key_id)
        assert stored(database, key_id) == first
    uses.now = START + STORED_AGAIN_AFTER
    uses.made.store()
    # Nothing was used at this time, and it is the use that is stored and not the time of storing it.
    assert stored(database, key_id) == first
    uses.use(key_id)
    assert stored(database, key_id)[0] == START + STORED_AGAIN_AFTER


def test_an_older_use_never_replaces_a_newer_one(
    uses: Uses, db: Database, site: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    key_id = new_key(site)
    uses.now = START + timedelta(hours=1)
    uses.use(key_id)
    late = Uses(db)
    late.use(key_id)
    assert stored(database, key_id)[0] == START + timedelta(hours=1)


def test_a_row_that_is_being_written_is_left_to_the_next_time(
    suite: "Suite", uses: Uses, site: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """Nothing waits for a lock; the other keys are stored."""
    held, free = new_key(site), new_key(site)
    with psycopg.connect(suite.database_url) as holder:
        holder.execute("UPDATE api_keys SET name = 'held' WHERE key_id = %s", (held,))
        uses.use(held, free)
        assert stored(database, free)[0] == START
        holder.rollback()
    assert stored(database, held)[0] is None
    uses.now += STORED_AGAIN_AFTER
    uses.use(held)
    assert stored(database, held)[0] == START + STORED_AGAIN_AFTER


def test_many_keys_are_stored_in_bounded_statements(
    uses: Uses, site: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """A key that has been deleted meanwhile is passed over, and what is noted stays bounded."""
    key_id = new_key(site)
    uses.use(*range(10_000_000, 10_002_500), key_id)
    assert stored(database, key_id)[0] == START
    for number in range(20_000_000, 20_030_000):
        uses.made.note(number)
    assert len(uses.made._noted) == 10_000
