"""DeleteSite: a site leaves with everything it has, and nothing else does."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
from footfall.admin.v1 import admin_pb2
from google.protobuf import field_mask_pb2

from admin_svc.chunk import Chunk
from admin_svc.counting import compact, queue
from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.maintenance import delete_site
from admin_svc.schedule import runs
from common.db import Database
from tests.support.footfall_site import FootfallSite
from tests.support.refusals import Refusal, batch, event, invalid, queries, refusal_of, until_refused
from tests.support.site_rows import TENANT_TABLES, opened, rows_of, site_id_of
from tests.support.suite import Suite
from tests.support.traffic import assert_recounts, batch_of, made_up

NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "SITE_NOT_FOUND", ("site",))


def filled(suite: Suite, database: psycopg.Connection[Any], seed: int) -> FootfallSite:
    """A site with rows in every table: aggregated, pending and failed events, hours, days, and what maintenance has."""
    site = FootfallSite(suite, "delete", rollup_shard_count=2)
    events = made_up(seed, visitors=10, events=200)
    site.send(batch_of(events[:150]))
    site.aggregate()
    site_id = site_id_of(database, site)
    for _ in range(6):
        compact.compact(database, site_id, datetime.now(UTC), 50)
    site.send(batch_of(events[150:]))
    for table in ("erased_hours (hour", "rebuilds (number, phase, next_batch, started_at"):
        values = "now()" if table.startswith("erased") else "1, 4, 0, now()"
        database.execute(f"INSERT INTO {table}, site_id) VALUES ({values}, %s)", (site_id,))
    database.execute(
        "INSERT INTO job_runs (started_at, finished_at, pages, rows, site_id, job) VALUES (now(), now(), 1, 1, %s, '')",
        (site_id,),
    )
    database.execute(
        "INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error) "
        "SELECT site_id, batch_id, last_ord, partition, 3, now(), now(), '' FROM pending_batches "
        "WHERE site_id = %s LIMIT 1",
        (site_id,),
    )
    assert all(rows_of(database, site_id).values())
    return site


def delete(site: FootfallSite, limit: int = 0, confirm: str | None = None) -> admin_pb2.DeleteSiteResponse:
    request = admin_pb2.DeleteSiteRequest(
        site=site.slug, limit=limit, confirm_slug=site.slug if confirm is None else confirm
    )
    chunk: admin_pb2.DeleteSiteResponse = site.operator.DeleteSite(request, metadata=site.as_admin)
    return chunk


def backdate(database: psycopg.Connection[Any], site: FootfallSite) -> None:
    """Makes it ten seconds later for the site."""
    database.execute("UPDATE sites SET updated_at = updated_at - interval '10 s' WHERE slug = %s", (site.slug,))


def test_every_table_of_sites_is_thought_of() -> None:
    assert {*(rows.partition(" ")[0] for rows in delete_site._ROWS), "sites"} == set(TENANT_TABLES)


def test_nothing_is_left_of_the_site_and_everything_of_the_others(
    suite: Suite, database: psycopg.Connection[Any]
) -> None:
    """Byte for byte; and the slug is free again."""
    site, other = filled(suite, database, 1), filled(suite, database, 2)
    site_id, other_id = site_id_of(database, site), site_id_of(database, other)
    others = rows_of(database, other_id)
    # The site's own row and the write key.
    rows = sum(map(len, rows_of(database, site_id, "sites").values()))

    chunks = [delete(site, limit=100)]
    backdate(database, site)
    while chunks[-1].has_more:
        chunks.append(delete(site, limit=100))
    assert sum(chunk.deleted for chunk in chunks) == rows
    assert all(chunk.deleted <= 100 for chunk in chunks)
    assert len(chunks) == rows // 100 + 1
    assert not any(rows_of(database, site_id).values())
    assert rows_of(database, other_id) == others
    assert refusal_of(delete, site) == NOT_FOUND

    again = admin_pb2.CreateSiteRequest(slug=site.slug)
    assert site.operator.CreateSite(again, metadata=site.as_admin).site.status == admin_pb2.SITE_STATUS_ACTIVE


def test_a_slip_deletes_nothing(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """Without the slug again, or with another one, or with a negative limit."""
    site = FootfallSite(suite, "delete")
    before = rows_of(database, site_id_of(database, site))
    for confirm in ("", "delete", site.slug.upper()):
        refused = refusal_of(delete, site, confirm=confirm)
        assert refused == invalid("CONFIRMATION_REQUIRED", "confirm_slug")
    assert refusal_of(delete, site, limit=-1) == invalid("VALUE_OUT_OF_RANGE", "limit")
    assert rows_of(database, site_id_of(database, site)) == before


def test_a_site_that_is_being_deleted_does_nothing_any_more(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """It answers nothing, nothing of it changes, and its slug is taken until it is gone."""
    site = filled(suite, database, 3)
    site_id = site_id_of(database, site)
    assert delete(site, limit=1) == admin_pb2.DeleteSiteResponse(deleted=1, has_more=True)
    before = rows_of(database, site_id)

    for call, request in queries(site):
        assert refusal_of(call, request, metadata=site.as_admin) == NOT_FOUND
    aggregate = admin_pb2.AggregatePendingRequest(site=site.slug)
    assert refusal_of(site.operator.AggregatePending, aggregate, metadata=site.as_admin) == NOT_FOUND
    rebuild = admin_pb2.RebuildSiteRequest(site=site.slug)
    assert refusal_of(site.operator.RebuildSite, rebuild, metadata=site.as_admin) == NOT_FOUND
    for path in ("status", "name"):
        update = admin_pb2.UpdateSiteRequest(
            site=admin_pb2.Site(slug=site.slug, status=admin_pb2.SITE_STATUS_ACTIVE),
            update_mask=field_mask_pb2.FieldMask(paths=[path]),
        )
        assert refusal_of(site.operator.UpdateSite, update, metadata=site.as_admin).reason == "SITE_NOT_FOUND"
    ensure = admin_pb2.EnsureSiteRequest(slug=site.slug)
    assert refusal_of(site.operator.EnsureSite, ensure, metadata=site.as_admin) == NOT_FOUND
    new_key = admin_pb2.CreateApiKeyRequest(kind=admin_pb2.API_KEY_KIND_READ, site=site.slug)
    assert refusal_of(site.operator.CreateApiKey, new_key, metadata=site.as_admin) == NOT_FOUND
    keys = admin_pb2.ListApiKeysRequest(site=site.slug)
    assert refusal_of(site.operator.ListApiKeys, keys, metadata=site.as_admin) == NOT_FOUND
    create = admin_pb2.CreateSiteRequest(slug=site.slug)
    assert refusal_of(site.operator.CreateSite, create, metadata=site.as_admin).reason == "SITE_EXISTS"
    shown = site.operator.GetSite(admin_pb2.GetSiteRequest(site=site.slug), metadata=site.as_admin).site
    assert shown.status == admin_pb2.SITE_STATUS_DELETING

    db = Database(suite.database_url, application="test")
    aggregator = Aggregator(VisitorNumbers(db))
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert not aggregator.aggregate(database, site_id, later, 1000).has_more
    assert compact.compact(database, site_id, later, 1000).done.deltas == 0
    assert site_id not in compact.sites_with_deltas(database, later)
    assert site_id not in queue.sites_with_work(database, later)
    db.close()
    assert rows_of(database, site_id) == before
    assert until_refused(lambda: site.send(batch(event()))).reason == "SITE_DISABLED"


def test_the_site_itself_stays_for_ten_seconds(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """So long a process may still let events in; what it let in goes too."""
    site = FootfallSite(suite, "delete")
    site.send(batch(event()))
    site_id = site_id_of(database, site)
    marked = datetime.now(UTC)
    assert delete_site.delete_site(database, site.slug, marked, 100).has_more
    # Stored by a transaction that had begun before.
    database.execute(
        "INSERT INTO ingest_dedupes (expires_at, site_id, dedupe_key) VALUES (now(), %s, gen_random_uuid())", (site_id,)
    )
    almost = marked + timedelta(seconds=10) - timedelta(microseconds=1)
    assert delete_site.delete_site(database, site.slug, almost, 100) == Chunk(delete_site.Deleted(1), has_more=True)
    assert delete_site.delete_site(database, site.slug, almost, 100) == Chunk(delete_site.Deleted(0), has_more=True)
    assert delete_site.delete_site(database, site.slug, marked + timedelta(seconds=10), 100) == Chunk(
        delete_site.Deleted(0), has_more=False
    )
    assert not any(rows_of(database, site_id).values())


def test_a_call_that_waited_since_its_key_was_known_stores_nothing(
    suite: Suite, database: psycopg.Connection[Any]
) -> None:
    """The process has the key still in its cache; calls of other sites in the same transaction are stored."""
    site, other = FootfallSite(suite, "delete"), FootfallSite(suite, "delete")
    senders = [one for one in (site, other) for _ in range(4)]
    for one in (site, other):
        one.send(batch(event()))
    delete(site)
    with ThreadPoolExecutor(len(senders)) as pool:
        calls = [pool.submit(one.send, batch(event())) for one in senders]
    refused = [refusal_of(call.result) for call in calls[:4]]
    assert {one.reason for one in refused} == {"SITE_DISABLED"}
    assert [call.result().accepted for call in calls[4:]] == [1] * 4
    assert rows_of(database, site_id_of(database, site))["events"] == []
    assert len(rows_of(database, site_id_of(database, other))["events"]) == 5


def test_a_run_of_a_job_that_ends_after_its_site_is_not_kept(suite: Suite, database: psycopg.Connection[Any]) -> None:
    site = FootfallSite(suite, "delete")
    site_id = site_id_of(database, site)
    now = datetime.now(UTC)
    for kept in (True, False):
        runs.record(database, [runs.Run(site_id, runs.COMPACT, now, now, 1, 1)])
        assert bool(rows_of(database, site_id)["job_runs"]) is kept
        delete(site)


def test_one_row_a_chunk_comes_to_an_end(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """A chunk that spends its whole budget on the last row is followed by one that deletes the site."""
    site = FootfallSite(suite, "delete")
    site.send(batch(event(), event(path="/a")))
    site.aggregate()
    site_id = site_id_of(database, site)
    rows = sum(map(len, rows_of(database, site_id, "sites").values()))
    chunks = [delete(site, limit=1)]
    backdate(database, site)
    while chunks[-1].has_more:
        chunks.append(delete(site, limit=1))
    assert [chunk.deleted for chunk in chunks] == [1] * rows + [0]


def test_a_chunk_under_way_is_waited_for(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """What a worker is writing is written before the chunk looks, so it goes too."""
    site = FootfallSite(suite, "delete")
    site_id = site_id_of(database, site)
    with opened(suite) as worker:
        worker.execute("BEGIN")
        worker.execute("SELECT pg_advisory_xact_lock_shared(%s, -1)", (site_id,))
        deleting = threading.Thread(target=delete, args=(site,))
        deleting.start()
        deleting.join(0.5)
        assert deleting.is_alive()
        worker.execute("INSERT INTO erased_hours (hour, site_id) VALUES (now(), %s)", (site_id,))
        worker.execute("COMMIT")
        deleting.join()
    assert rows_of(database, site_id)["erased_hours"] == []


def test_a_sender_that_goes_on_leaves_no_row_behind(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """It sends from before the first chunk until after the last, with everything else going on too."""
    site = FootfallSite(suite, "delete", rollup_shard_count=2)
    keeper = FootfallSite(suite, "delete")
    kept = made_up(5, visitors=5, events=100)
    site_id = site_id_of(database, site)
    stopping = threading.Event()
    accepted, refused = [0], []

    def send() -> None:
        while not stopping.is_set():
            try:
                accepted[0] += site.send(batch(*(event() for _ in range(20)))).accepted
                site.operator.AggregatePending(
                    admin_pb2.AggregatePendingRequest(site=site.slug, limit=50), metadata=site.as_admin
                )
            except grpc.RpcError as error:
                refused.append(error.code())

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    while accepted[0] < 500:
        stopping.wait(0.01)
    began = datetime.now(UTC)
    keeper.send(batch_of(kept))
    while (chunk := delete(site, limit=200)).has_more:
        if not chunk.deleted:
            stopping.wait(0.1)
    assert datetime.now(UTC) - began >= delete_site.QUIET
    stopping.wait(1)
    stopping.set()
    for sender in senders:
        sender.join()
    # The site is closed, or its key has gone already.
    assert {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED} & set(refused)
    assert not any(rows_of(database, site_id).values())
    keeper.aggregate()
    assert_recounts(keeper, kept)
