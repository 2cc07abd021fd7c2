"""Ids of events: the 16 bytes by which a repeated event is recognised. Pure."""

import json
from hashlib import blake2b

from footfall.type.v1 import event_pb2

from common.event_columns import CONTEXT_COLUMNS

_ID, _CONTENT = b"event id", b"event content"
"""Personalisations of BLAKE2b, so that an id and a content never have the same hash."""

# Faster than dumps, which looks at all of its options.
_to_json = json.JSONEncoder(check_circular=False).encode


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


def hashed_content(core: tuple[str | int, ...], rest: tuple[str, str, str, str], properties: bytes) -> bytes:
    """The 16 bytes for an event without an id: BLAKE2b of its content.

    `core` is visitor, session, seconds and nanos of the time, type, name and path. `rest` is title, referrer, user and
    `context_content`; an event that has none of them has the hash that it had before they counted. `properties` are
    serialised deterministically.
    """
    # JSON keeps the parts apart, whatever characters they contain.
    parts = _to_json(core + rest if any(rest) else core)
    return blake2b(parts.encode() + b"\0" + properties, digest_size=16, person=_CONTENT).digest()


def context_content(own: bytes, default: bytes) -> str:
    """What `hashed_content` takes for a context merged into a default one, both serialised: JSON of the fields that are
    set, "" if none is. So a field that Context gains later changes no hash of an event without it."""
    context = event_pb2.Context.FromString(default + own)
    said = {name: value for name in CONTEXT_COLUMNS if (value := getattr(context, name))}
    return json.dumps(said) if said else ""
