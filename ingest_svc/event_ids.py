"""Ids of events: the 16 bytes by which a repeated event is recognised. Pure."""

import json
from hashlib import blake2b

_ID, _CONTENT = b"event id", b"event content"
"""Personalisations of BLAKE2b, so that an id and a content never have the same hash."""


def uuid_bytes(text: str) -> bytes | None:
    """The 16 bytes of a UUID written with hyphens, in either case; None for any other text."""
    if len(text) != 36 or text[8:24:5] != "----":
        return None
    try:
        # fromhex skips white space, and hyphens at other places are removed too. Both leave less than 16 bytes.
        found = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        return None
    return found if len(found) == 16 else None


def hashed_id(text: str) -> bytes:
    """The 16 bytes for an id that is no UUID: BLAKE2b of its UTF-8 bytes."""
    return blake2b(text.encode(), digest_size=16, person=_ID).digest()


def hashed_content(parts: tuple[str | int, ...], properties: bytes) -> bytes:
    """The 16 bytes for an event without an id: BLAKE2b of its content, with deterministically serialised properties."""
    # JSON keeps the parts apart, whatever characters they contain.
    return blake2b(json.dumps(parts).encode() + b"\0" + properties, digest_size=16, person=_CONTENT).digest()
