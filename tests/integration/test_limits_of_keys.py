"""Who may call what, and what everybody else is told; nothing of a refused call is stored."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest
from footfall.admin.v1 import admin_pb2
from google.protobuf import duration_pb2

from tests.support.footfall_site import FootfallSite
from tests.support.refusals import batch, event, queries, refusal_of, until_refused

if TYPE_CHECKING:
    from tests.support.suite import Suite

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def site(suite: "Suite") -> FootfallSite:
    """A site that nothing is sent to."""
    return FootfallSite(suite, "limits")


@pytest.fixture
def fresh(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "limits-fresh")


def send_with(site: FootfallSite, *metadata: tuple[str, str]) -> Callable[[], object]:
    return lambda: site.ingest.IngestBatch(batch(event()), metadata=metadata)


def new_key(site: FootfallSite, kind: str, of_site: bool = True, **ttl: int) -> str:
    request = admin_pb2.CreateApiKeyRequest(
        kind=admin_pb2.ApiKeyKind.Value(f"API_KEY_KIND_{kind}"),
        site=site.slug if of_site else "",
        ttl=duration_pb2.Duration(**ttl) if ttl else None,
    )
    made = site.operator.CreateApiKey(request, metadata=site.as_admin)
    return str(made.key)


def test_only_a_write_key_of_the_site_can_send(fresh: FootfallSite) -> None:
    """Nothing of a refused call is stored."""
    refused = refusal_of(send_with(fresh))
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "KEY_REQUIRED")
    refused = refusal_of(send_with(fresh, ("authorization", f"Bearer {fresh.write_key}")))
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "KEY_REQUIRED")
    refused = refusal_of(send_with(fresh, ("x-write-key", fresh.write_key[:-1])))
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "KEY_UNKNOWN")
    for key in (new_key(fresh, "READ"), fresh.as_admin[0][1].removeprefix("Bearer ")):
        refused = refusal_of(send_with(fresh, ("x-write-key", key)))
        assert (refused.code, refused.reason) == (DENIED, "KEY_KIND_WRONG")
    assert fresh.events() == []
    send_with(fresh, ("x-write-key", new_key(fresh, "WRITE")))()
    assert len(fresh.events()) == 1


def test_a_disabled_site_takes_no_events_and_still_answers(fresh: FootfallSite) -> None:
    disabled = admin_pb2.Site(slug=fresh.slug, status=admin_pb2.SITE_STATUS_DISABLED)
    request = admin_pb2.UpdateSiteRequest(site=disabled)
    request.update_mask.paths.append("status")
    fresh.operator.UpdateSite(request, metadata=fresh.as_admin)
    refused = refusal_of(send_with(fresh, *fresh.as_sender))
    assert (refused.code, refused.reason) == (DENIED, "SITE_DISABLED")
    assert fresh.events() == []


def test_a_site_that_lists_origins_takes_no_others(suite: "Suite") -> None:
    """A call without an origin, such as a server's, always may."""
    site = FootfallSite(suite, "limits-origin", allowed_origins=["https://example.com"])
    for origin in ("https://example.org", "http://example.com", "https://example.com.org", "null", ""):
        refused = refusal_of(send_with(site, *site.as_sender, ("origin", origin)))
        assert (refused.code, refused.reason) == (DENIED, "ORIGIN_NOT_ALLOWED")
    assert site.events() == []
    send_with(site, *site.as_sender, ("origin", "https://example.com"))()
    send_with(site, *site.as_sender)()
    assert len(site.events()) == 2


def test_a_rotated_key_ends_within_5_seconds_and_one_with_grace_goes_on(fresh: FootfallSite) -> None:
    send_with(fresh, *fresh.as_sender)()
    rotate = admin_pb2.RotateWriteKeyRequest(site=fresh.slug)
    second = fresh.operator.RotateWriteKey(rotate, metadata=fresh.as_admin).write_key
    send_with(fresh, ("x-write-key", second))()
    refused = until_refused(send_with(fresh, *fresh.as_sender))
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "KEY_UNKNOWN")
    rotate.grace_period.FromSeconds(3600)
    third = fresh.operator.RotateWriteKey(rotate, metadata=fresh.as_admin).write_key
    for key in (second, third):
        send_with(fresh, ("x-write-key", key))()


def test_an_expired_key_and_a_revoked_one_end_within_5_seconds(fresh: FootfallSite) -> None:
    refused = until_refused(send_with(fresh, ("x-write-key", new_key(fresh, "WRITE", seconds=1))))
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "KEY_UNKNOWN")
    revoked = new_key(fresh, "WRITE")
    send_with(fresh, ("x-write-key", revoked))()
    listed = fresh.operator.ListApiKeys(admin_pb2.ListApiKeysRequest(site=fresh.slug), metadata=fresh.as_admin).api_keys
    fresh.operator.RevokeApiKey(admin_pb2.RevokeApiKeyRequest(id=listed[-1].id), metadata=fresh.as_admin)
    refused = until_refused(send_with(fresh, ("x-write-key", revoked)))
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "KEY_UNKNOWN")


def test_only_a_read_or_admin_key_of_the_site_can_query(suite: "Suite", site: FootfallSite) -> None:
    other = FootfallSite(suite, "limits-other")
    refused = {
        "": (UNAUTHENTICATED, "KEY_REQUIRED"),
        "Bearer nobody": (UNAUTHENTICATED, "KEY_UNKNOWN"),
        f"Basic {suite.admin_key}": (UNAUTHENTICATED, "KEY_REQUIRED"),
        f"Bearer {site.write_key}": (DENIED, "KEY_KIND_WRONG"),
        f"Bearer {new_key(other, 'READ')}": (DENIED, "KEY_SITE_WRONG"),
    }
    allowed = [new_key(site, "READ"), new_key(site, "READ", of_site=False), suite.admin_key]
    for call, request in queries(site):
        for authorization, expected in refused.items():
            metadata: Metadata = (("authorization", authorization),) if authorization else ()
            told = refusal_of(call, request, metadata=metadata)
            assert (told.code, told.reason) == expected
        for key in allowed:
            call(request, metadata=(("authorization", f"Bearer {key}"),))


def test_only_an_admin_key_can_administer(site: FootfallSite) -> None:
    for metadata, code in (
        ((), UNAUTHENTICATED),
        ((("authorization", f"Bearer {site.write_key}"),), DENIED),
        ((("authorization", f"Bearer {new_key(site, 'READ', of_site=False)}"),), DENIED),
    ):
        request = admin_pb2.GetSiteRequest(site=site.slug)
        assert refusal_of(site.operator.GetSite, request, metadata=metadata).code is code
