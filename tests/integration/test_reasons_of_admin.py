"""What the admin service refuses about slugs, names, keys and masks; of a refused call nothing is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from google.protobuf import field_mask_pb2

from tests.support.footfall_site import FootfallSite
from tests.support.refusals import Refusal, batch, event, invalid, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

ADMIN, READ, WRITE = (admin_pb2.ApiKeyKind.Value(f"API_KEY_KIND_{kind}") for kind in ("ADMIN", "READ", "WRITE"))
NEW = "reasons-new"
"""A slug that nobody has."""
LONG_NAME = "é" * 128 + "x"
"""257 bytes."""

Connection = psycopg.Connection[Any]
Call = Callable[[FootfallSite, str], object]


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "reasons")


@contextmanager
def nothing_done(database: Connection) -> Iterator[None]:
    """Asserts that the block changes no site and no key. When keys were last used is stored at any time."""

    def stored() -> list[list[tuple[Any, ...]]]:
        rows = ("SELECT * FROM sites ORDER BY 1", "SELECT to_jsonb(k) - 'last_used_at' FROM api_keys k ORDER BY key_id")
        return [database.execute(statement).fetchall() for statement in rows]

    before = stored()
    yield
    assert stored() == before


def create(site: FootfallSite, /, slug: str = NEW, **fields: Any) -> admin_pb2.CreateSiteResponse:
    request = admin_pb2.CreateSiteRequest(slug=slug, **fields)
    made: admin_pb2.CreateSiteResponse = site.operator.CreateSite(request, metadata=site.as_admin)
    return made


def ensure(site: FootfallSite, /, slug: str = NEW, **fields: Any) -> admin_pb2.EnsureSiteResponse:
    request = admin_pb2.EnsureSiteRequest(slug=slug, **fields)
    found: admin_pb2.EnsureSiteResponse = site.operator.EnsureSite(request, metadata=site.as_admin)
    return found


def update(site: FootfallSite, /, *paths: str, **fields: Any) -> admin_pb2.UpdateSiteResponse:
    """Changes what `paths` name to what a Site of `fields` says."""
    changed = admin_pb2.Site(**({"slug": site.slug} | fields))
    request = admin_pb2.UpdateSiteRequest(site=changed, update_mask=field_mask_pb2.FieldMask(paths=paths))
    answer: admin_pb2.UpdateSiteResponse = site.operator.UpdateSite(request, metadata=site.as_admin)
    return answer


def create_key(site: FootfallSite, /, **fields: Any) -> admin_pb2.CreateApiKeyResponse:
    request = admin_pb2.CreateApiKeyRequest(**fields)
    made: admin_pb2.CreateApiKeyResponse = site.operator.CreateApiKey(request, metadata=site.as_admin)
    return made


def revoke(site: FootfallSite, key_id: int) -> admin_pb2.RevokeApiKeyResponse:
    request = admin_pb2.RevokeApiKeyRequest(id=key_id)
    answer: admin_pb2.RevokeApiKeyResponse = site.operator.RevokeApiKey(request, metadata=site.as_admin)
    return answer


@pytest.mark.parametrize("slug", ["", "-a", ".a", "_a", "a b", "a/b", "é", "a\0", "a\n", "a" * 64])
def test_a_slug_that_is_none_is_refused(database: Connection, site: FootfallSite, slug: str) -> None:
    with nothing_done(database):
        for call in (create, ensure):
            assert refusal_of(call, site, slug) == invalid("SLUG_INVALID", "slug")
        assert refusal_of(update, site, "name", slug=slug) == invalid("SLUG_INVALID", "site.slug")


@pytest.mark.parametrize("slug", ["{}", "A9._-{}", "0{}" + "z" * 54])
def test_a_slug_of_1_to_63_allowed_characters_is_taken(site: FootfallSite, slug: str) -> None:
    unique = slug.format(site.slug[-8:])
    assert create(site, unique).site.slug == unique
    assert not ensure(site, unique).created


NAMED: dict[str, tuple[str, Call]] = {
    "CreateSite": ("name", lambda site, name: create(site, name=name)),
    "EnsureSite": ("name", lambda site, name: ensure(site, name=name)),
    "UpdateSite": ("site.name", lambda site, name: update(site, "name", name=name)),
    "CreateApiKey": ("name", lambda site, name: create_key(site, kind=READ, site=site.slug, name=name)),
}


@pytest.mark.parametrize("rpc", NAMED)
def test_a_name_of_257_bytes_is_refused(database: Connection, site: FootfallSite, rpc: str) -> None:
    field, call = NAMED[rpc]
    with nothing_done(database):
        assert refusal_of(call, site, LONG_NAME) == invalid("FIELD_TOO_LONG", field)


def test_a_name_of_256_bytes_is_kept_whole(site: FootfallSite) -> None:
    name = "é" * 128
    assert update(site, "name", name=name).site.name == name
    assert create_key(site, kind=READ, site=site.slug, name=name).api_key.name == name


@pytest.mark.parametrize("mark", [" ", "\t", "\n", "é", "\0", "\x7f"])
def test_a_write_key_that_metadata_cannot_carry_is_refused(database: Connection, site: FootfallSite, mark: str) -> None:
    with nothing_done(database):
        for key in (f"{mark}0123456789abcdef", f"01234567{mark}89abcdef", f"0123456789abcdef{mark}"):
            for call in (create, ensure):
                assert refusal_of(call, site, write_key=key) == invalid("WRITE_KEY_INVALID", "write_key")


@pytest.mark.parametrize("length", [1, 15, 257])
def test_a_write_key_that_is_too_short_or_too_long_is_refused(
    database: Connection, site: FootfallSite, length: int
) -> None:
    """A short one could be guessed."""
    with nothing_done(database):
        for call in (create, ensure):
            assert refusal_of(call, site, write_key="k" * length) == invalid("WRITE_KEY_INVALID", "write_key")


def test_a_write_key_of_16_characters_is_taken(site: FootfallSite) -> None:
    key = site.slug[-8:].rjust(16, "k")
    assert create(site, f"{site.slug}-shortest-key", write_key=key).write_key == key


def test_a_write_key_of_256_visible_characters_is_taken_and_sends(site: FootfallSite) -> None:
    key = ("!~" + site.slug).ljust(256, "k")
    assert create(site, f"{site.slug}-own-key", write_key=key).write_key == key
    assert site.ingest.IngestBatch(batch(event()), metadata=(("x-write-key", key),)).accepted == 1


def test_a_write_key_of_another_site_is_refused_and_stays_the_other_sites(
    database: Connection, site: FootfallSite
) -> None:
    """Also one that has ended, and also the operator's own key: every key is somebody's for ever."""
    rotated = site.write_key
    rotate = admin_pb2.RotateWriteKeyRequest(site=site.slug)
    valid = site.operator.RotateWriteKey(rotate, metadata=site.as_admin).write_key
    operators = site.as_admin[0][1].removeprefix("Bearer ")
    taken = Refusal(grpc.StatusCode.ALREADY_EXISTS, "WRITE_KEY_TAKEN", ("write_key",))
    with nothing_done(database):
        for key in (valid, rotated, operators):
            for call in (create, ensure):
                assert refusal_of(call, site, write_key=key) == taken
    assert site.ingest.IngestBatch(batch(event()), metadata=(("x-write-key", valid),)).accepted == 1
    assert len(site.events()) == 1


@pytest.mark.parametrize("key_id", [0, -1, 2**63 - 1, -(2**63)])
def test_a_key_that_is_not_there_cannot_be_revoked(database: Connection, site: FootfallSite, key_id: int) -> None:
    with nothing_done(database):
        assert refusal_of(revoke, site, key_id) == Refusal(grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND", ("id",))


def test_an_admin_key_is_not_made_for_one_site(database: Connection, site: FootfallSite) -> None:
    """Nor for a site that is not there; without a site it is made."""
    with nothing_done(database):
        for slug in (site.slug, "nowhere"):
            told = refusal_of(create_key, site, kind=ADMIN, site=slug)
            assert told == invalid("SITE_NOT_ALLOWED_HERE", "site")
    made = create_key(site, kind=ADMIN)
    assert made.api_key.site == ""
    revoke(site, made.api_key.id)


@pytest.mark.parametrize(
    "path",
    [
        "slug",
        "create_time",
        "*",
        "",
        "Name",
        "name.first",
        "settings.",
        "settings.nothing",
        "settings.retention_days.x",
    ],
)
def test_a_mask_that_names_what_cannot_be_changed_changes_nothing(
    database: Connection, site: FootfallSite, path: str
) -> None:
    """Not what it also names and could change, either."""
    with nothing_done(database):
        for paths in ([path], ["name", path], [path, "settings.retention_days"]):
            assert refusal_of(update, site, *paths, name="other") == invalid("UPDATE_MASK_INVALID", "update_mask")
    assert update(site, "name", name="other").site.name == "other"
