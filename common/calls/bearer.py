"""Authenticates calls by `authorization: Bearer <key>`."""

from collections.abc import Awaitable, Callable

from common.calls.call import Call
from common.keys.key import Key, KeyKind
from common.keys.ring import KeyRing


def bearers(keys: KeyRing, expected: str, *kinds: KeyKind) -> Callable[[Call], Awaitable[Key]]:
    """Lets calls in whose key is of one of `kinds`. `expected` says in messages how to send one."""

    async def authenticate(call: Call) -> Key:
        return await keys.authenticate(call.bearer(), expected, *kinds)

    return authenticate
