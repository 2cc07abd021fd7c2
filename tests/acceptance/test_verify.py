"""`footfall verify` agrees with right answers and finds wrong ones."""

from datetime import UTC, datetime

import psycopg
import pytest

from admin_svc.counting import compact
from common.db import plain_url
from tests.oracle.recorded_cases import STREAM_BATCHES
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.site_rows import opened, site_id_of
from tests.support.suite import Suite


@pytest.fixture(scope="module")
def stream(suite: Suite) -> FootfallSite:
    """A site with three days of traffic, part of it compacted."""
    site = FootfallSite(suite, "verify", rollup_shard_count=3)
    for batch in STREAM_BATCHES:
        site.send(batch.request())
    site.aggregate()
    with opened(suite) as connection:
        for _ in range(3):
            compact.compact(connection, site_id_of(connection, site), datetime.now(UTC), 100)
    return site


def test_right_answers_are_verified(suite: Suite, stream: FootfallSite) -> None:
    """Every answer equals the recount, over all and over a part cut at odd instants."""
    code, output = footfall(suite, "verify", "--site", stream.slug)
    assert code == 0, output
    code, output = footfall(
        suite, "verify", "--site", stream.slug, "--start", "2026-01-05T10:10:10.5", "--end", "2026-01-06T23:59:59.999"
    )
    assert code == 0, output


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE rollup_shards SET events = events + 1 WHERE ctid = ANY(ARRAY(SELECT ctid FROM rollup_shards r "
        "WHERE r.site_id = %(site_id)s AND dimension = 0 AND interval = 1 LIMIT 1))",
        "UPDATE rollup_shards SET sessions = sessions - 1 WHERE ctid = ANY(ARRAY(SELECT ctid FROM rollup_shards r "
        "WHERE r.site_id = %(site_id)s AND dimension = 0 AND interval = 2 LIMIT 1))",
        "UPDATE rollup_shards SET visitors = NULL WHERE ctid = ANY(ARRAY(SELECT ctid FROM rollup_shards r "
        "WHERE r.site_id = %(site_id)s AND dimension = 2 AND interval = 1 AND delta_no > 0 LIMIT 20))",
        "DELETE FROM rollup_shards WHERE ctid = ANY(ARRAY(SELECT ctid FROM rollup_shards r "
        "WHERE r.site_id = %(site_id)s AND dimension = 12 AND interval = 1 LIMIT 1))",
    ],
)
def test_wrong_answers_are_found(suite: Suite, stream: FootfallSite, damage: str) -> None:
    """One number of one rollup row that is wrong makes the command fail and show where."""
    with psycopg.connect(plain_url(suite.database_url)) as connection:
        row = (site_id_of(connection, stream),)
        columns = "interval, dimension, bucket_start, key, delta_no, events, visitors"
        before = connection.execute(f"SELECT {columns} FROM rollup_shards WHERE site_id = %s", row).fetchall()
        copied = connection.execute("CREATE TABLE undamaged AS SELECT * FROM rollup_shards WHERE site_id = %s", row)
        assert copied.rowcount == len(before)
        assert connection.execute(damage, {"site_id": row[0]}).rowcount > 0
        connection.commit()
        try:
            code, output = footfall(suite, "verify", "--site", stream.slug)
        finally:
            connection.execute("DELETE FROM rollup_shards WHERE site_id = %s", row)
            connection.execute("INSERT INTO rollup_shards SELECT * FROM undamaged")
            connection.execute("DROP TABLE undamaged")
            connection.commit()
    assert code == 1
    assert "recount" in output
    assert "answer" in output


def test_an_unknown_site_is_named(suite: Suite) -> None:
    """Exit code 1 and one line."""
    code, output = footfall(suite, "verify", "--site", "nobody")
    assert code == 1
    assert "nobody" in output
