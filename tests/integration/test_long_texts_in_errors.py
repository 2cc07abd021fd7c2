"""An error quotes at most 100 characters of what its caller sent, so that it arrives as the error that it is."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2
from google.protobuf import field_mask_pb2

from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.refusals import batch, event, queries, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

LONG = "ü" * 5_000


@pytest.fixture(scope="module")
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "long")


def calls(site: FootfallSite) -> Iterator[tuple[str, Callable[..., object], Any, Any]]:
    """The reason to expect, an RPC, and a request with a long text that is wrong."""
    admin, ingest = site.operator, site.ingest
    for call, request in queries(site):
        request.site = LONG
        yield "SITE_NOT_FOUND", call, request, site.as_admin
    for name in ("GetSite", "RotateWriteKey", "AggregatePending", "CompactRollups", "CleanupSite", "RebuildSite"):
        wanted = getattr(admin_pb2, f"{name}Request")(site=LONG)
        yield "SITE_NOT_FOUND", getattr(admin, name), wanted, site.as_admin
    yield "SITE_NOT_FOUND", admin.GetStatus, admin_pb2.GetStatusRequest(site=LONG), site.as_admin
    delete = admin_pb2.DeleteSiteRequest(site=site.slug, confirm_slug=LONG)
    yield "CONFIRMATION_REQUIRED", admin.DeleteSite, delete, site.as_admin
    update = admin_pb2.UpdateSiteRequest(
        site=admin_pb2.Site(slug=site.slug), update_mask=field_mask_pb2.FieldMask(paths=[LONG])
    )
    yield "UPDATE_MASK_INVALID", admin.UpdateSite, update, site.as_admin
    zone = query_pb2.GetTimeseriesRequest(
        site=site.slug, range=time_range(0, DAY), interval=query_pb2.INTERVAL_DAY, time_zone=LONG
    )
    yield "TIME_ZONE_UNKNOWN", site.query.GetTimeseries, zone, site.as_admin
    yield "ID_TOO_LONG", ingest.IngestBatch, batch(event(), visitor_id=LONG), site.as_sender


def test_every_error_that_quotes_its_caller_arrives_with_its_reason(site: FootfallSite) -> None:
    for reason, call, request, key in calls(site):
        assert refusal_of(call, request, metadata=key).reason == reason


def test_a_rejected_event_quotes_100_characters_of_a_property_key(site: FootfallSite) -> None:
    bad = event()
    bad.properties[LONG] = 1
    bad.properties["nested"] = [1]
    response: ingest_pb2.IngestBatchResponse = site.send(batch(bad))
    [error] = response.errors
    assert len(error.message) < 250
