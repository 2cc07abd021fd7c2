"""Write, read and admin keys. Only their SHA-256 hashes are stored."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import grpc

from common.errors import CallError, Reason, quoted
from common.sites import Site


class KeyKind(IntEnum):
    """What a key may do; the numbers of the proto enum."""

    WRITE = 1
    READ = 2
    ADMIN = 3


_PREFIX = {KeyKind.WRITE: "fw_", KeyKind.READ: "fr_", KeyKind.ADMIN: "fa_"}


def new_key(kind: KeyKind) -> str:
    """A new key of 256 random bits; its prefix shows its kind."""
    return _PREFIX[kind] + secrets.token_urlsafe(32)


def hash_key(key: str) -> bytes:
    """The form in which a key is stored. Keys are random, so a fast hash without salt is enough."""
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a caller sent. `site` is None for a key of all sites."""

    key_id: int
    kind: KeyKind
    expires_at: datetime | None
    site: Site | None

    def authorize_site(self, slug: str) -> None:
        """Raises CallError unless the key may read the site. The error does not tell whether the site exists."""
        if self.site is not None and self.site.slug != slug:
            raise CallError(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.KEY_SITE_WRONG,
                f"the key is not for site {quoted(slug)}",
                "site",
            )
