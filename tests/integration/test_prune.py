"""PruneExpired: dedupe keys go when they have expired, a chunk at a time, and never under the hands of ingest."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from footfall.admin.v1 import admin_pb2

from admin_svc.chunk import Chunk
from admin_svc.maintenance import prune
from common.db import Database
from common.migrate import migrate
from tests.support.footfall_site import FootfallSite
from tests.support.refusals import invalid, refusal_of
from tests.support.suite import Suite, database_on
from tests.support.traffic import START, batch_of, made_up
from tests.support.upkeep import instant

NOW = instant(START)

Connection = psycopg.Connection[Any]


@pytest.fixture
def keys(postgres_url: str) -> Iterator[tuple[Connection, Connection]]:
    """Two connections to a database of three sites, 10 keys each: of each 4 expired before NOW, one expires at NOW, and
    one a microsecond later."""
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.connection() as one, db.connection() as two:
            for site_id in (1, 2, 3):
                one.execute(
                    "INSERT INTO sites (site_id, slug, name, status, session_timeout_us, dedupe_retention_us, "
                    "rollup_shard_count, allowed_property_keys, denied_property_keys, allowed_origins, created_at, "
                    "updated_at) VALUES (%s, %s, '', 1, 1, 1, 1, '{}', '{}', '{}', %s, %s)",
                    (site_id, f"s{site_id}", NOW, NOW),
                )
                ages = [timedelta(seconds=n) for n in (-4, -3, -2, -1, 0)]
                ages += [timedelta(microseconds=1), *(timedelta(seconds=n) for n in (1, 2, 3, 4))]
                for age in ages:
                    one.execute(
                        "INSERT INTO ingest_dedupes (site_id, dedupe_key, expires_at) "
                        "VALUES (%s, gen_random_uuid(), %s)",
                        (site_id, NOW + age),
                    )
            yield one, two
        db.close()


def left(connection: Connection) -> list[Any]:
    """(site, seconds to live) of every key."""
    return connection.execute(
        "SELECT site_id, extract(epoch FROM expires_at - %s)::float FROM ingest_dedupes ORDER BY 1, 2", (NOW,)
    ).fetchall()


ALIVE = [(site_id, seconds) for site_id in (1, 2, 3) for seconds in (0.000001, 1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize("limit", [1, 4, 5, 6, 14, 15, 16, 1000])
def test_exactly_the_expired_keys_of_all_sites_go(keys: tuple[Connection, Connection], limit: int) -> None:
    """A key that expires now has expired; has_more is true exactly while one is left, also where a chunk ends with the
    last key of a site."""
    connection, _ = keys
    deleted, has_more, chunks = 0, True, 0
    while has_more:
        chunk = prune.prune(connection, 0, NOW, limit)
        assert 0 < chunk.done.deleted <= limit
        deleted, has_more, chunks = deleted + chunk.done.deleted, chunk.has_more, chunks + 1
        assert has_more == (deleted < 15)
    assert chunks == -(-15 // limit)
    assert left(connection) == ALIVE
    assert prune.prune(connection, 0, NOW, limit) == Chunk(prune.Pruned(0), False)


def test_a_key_that_ingest_is_about_to_reserve_again_is_passed_over(keys: tuple[Connection, Connection]) -> None:
    """Neither waits for the other; the key is reserved again afterwards, and others went meanwhile."""
    connection, ingest = keys
    with ingest.transaction():
        ingest.execute(
            "UPDATE ingest_dedupes SET expires_at = %s WHERE site_id = 2 AND expires_at = %s",
            (NOW + timedelta(days=1), NOW - timedelta(seconds=4)),
        )
        chunk = prune.prune(connection, 0, NOW, 100)
        assert chunk.done.deleted == 14
        assert chunk.has_more
        # Only that one is left: a loop on has_more ends and does not spin on it.
        assert prune.prune(connection, 0, NOW, 100) == Chunk(prune.Pruned(0), False)
    assert left(connection) == sorted([*ALIVE, (2, 86_400.0)])


def test_the_rpc_prunes_what_has_expired_and_the_key_counts_as_new(suite: Suite, database: Connection) -> None:
    """Negative limits are refused; too large ones are coerced; keys that live on do their work."""
    site = FootfallSite(suite, "prune")
    first, second = (batch_of([event]) for event in made_up(541, visitors=1, events=2))
    assert site.send(first).accepted == 1
    assert site.send(second).accepted == 1
    database.execute(
        "UPDATE ingest_dedupes SET expires_at = now() - interval '1 second' WHERE dedupe_key = %s",
        (first.events[0].event_id,),
    )
    ask = site.operator.PruneExpired
    refused = refusal_of(ask, admin_pb2.PruneExpiredRequest(limit=-1), metadata=site.as_admin)
    assert refused == invalid("VALUE_OUT_OF_RANGE", "limit")
    chunk = ask(admin_pb2.PruneExpiredRequest(limit=2**31 - 1), metadata=site.as_admin)
    assert chunk.deleted >= 1
    assert not chunk.has_more
    assert (site.send(first).accepted, site.send(second).duplicate) == (1, 1)
