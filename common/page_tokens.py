"""Page tokens: where a list goes on, sealed together with the request they belong to.

A token is the cursor as JSON plus a keyed hash over method, request and cursor. One changed byte, another
request or another list makes it invalid, so a cursor that reaches SQL is one that this suite gave out.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache

from common.errors import Reason, invalid

_SEAL_BYTES = 16

Cursor = list[str | int]


class PageTokens:
    """Seals and opens the tokens of every list; all processes of the suite share the secret.

    `load_secret` is called once, at the first use, so that a process starts while the database is away.
    """

    def __init__(self, load_secret: Callable[[], bytes]) -> None:
        self._secret = cache(load_secret)

    def seal(self, request: tuple[str, ...], cursor: Cursor) -> str:
        """The token that continues `request` (its method and every field that selects rows) at `cursor`."""
        body = json.dumps(cursor, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._hash(request, body) + body).decode().rstrip("=")

    def open(self, request: tuple[str, ...], token: str) -> Cursor | None:
        """The cursor of a token of this request; None for "". Raises CallError for any other text."""
        if not token:
            return None
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        seal, body = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if not hmac.compare_digest(seal, self._hash(request, body)):
            raise invalid(
                "page_token",
                Reason.PAGE_TOKEN_INVALID,
                "is not a token of this request; start again without one, and keep the other fields the same",
            )
        cursor: Cursor = json.loads(body)
        return cursor

    def _hash(self, request: tuple[str, ...], body: bytes) -> bytes:
        message = json.dumps(request).encode() + b"\0" + body
        return hashlib.blake2b(message, key=self._secret(), digest_size=_SEAL_BYTES).digest()
