"""Keys are looked up together, and those that were valid before go first."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest

from common.db import Database, plain_url
from common.errors import CallError, Reason
from common.keys.key import hash_key
from common.keys.lookup import KeyLookup
from tests.support.footfall_site import FootfallSite

if TYPE_CHECKING:
    from tests.support.suite import Suite


@pytest.fixture
def db(suite: "Suite") -> Iterator[Database]:
    database = Database(suite.database_url, application="key lookup")
    yield database
    database.close()


def unknown(number: int) -> bytes:
    return hash_key(f"fw_unknown_{number}")


def test_a_flood_of_unknown_keys_delays_a_known_one_by_the_statement_under_way(suite: "Suite", db: Database) -> None:
    key = hash_key(FootfallSite(suite, "lookup").write_key)

    async def flood() -> None:
        lookup = KeyLookup(db)
        with psycopg.connect(plain_url(suite.database_url)) as holder:
            holder.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
            first = asyncio.create_task(lookup.find(unknown(-1), known=False))
            await asyncio.sleep(0)
            # The first statement is under way. Over 2,000 more wait, which are several statements.
            others = [asyncio.create_task(lookup.find(unknown(number), known=False)) for number in range(2_000)]
            await asyncio.sleep(0)
            with pytest.raises(CallError) as refused:
                await lookup.find(unknown(2_000), known=False)
            assert refused.value.reason is Reason.TOO_MANY_CALLS
            known = asyncio.create_task(lookup.find(key, known=True))
            await asyncio.sleep(0)
            holder.rollback()
            found = await known
            assert found is not None
            assert found.site is not None
            assert first.done()
            assert sum(other.done() for other in others) <= 500
            assert set(await asyncio.gather(*others)) == {None}
        lookup.close()

    asyncio.run(flood())


def test_a_database_that_does_not_answer_is_told_and_asked_again(suite: "Suite", db: Database) -> None:
    key = hash_key(FootfallSite(suite, "lookup").write_key)

    async def ask() -> None:
        lookup = KeyLookup(db, timeout_seconds=0.1)
        with psycopg.connect(plain_url(suite.database_url)) as holder:
            holder.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(CallError) as refused:
                await lookup.find(key, known=True)
            assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
            holder.rollback()
        patient = KeyLookup(db)
        assert await patient.find(key, known=True) is not None
        lookup.close()
        patient.close()

    asyncio.run(ask())
