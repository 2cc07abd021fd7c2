"""How many calls may be under way at once, and how many of them one key or one peer may hold."""

from collections.abc import Hashable

import grpc

from common.errors import CallError, Reason


class Places:
    """A number of places in one event loop. An owner may hold as many as are free.

    So one owner gets at most half, two a third each, and there is always a place for another. The rule is that of
    Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches" (1998), with factor 1.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._held: dict[Hashable, int] = {}

    def take(self, owner: Hashable) -> None:
        """Takes a place. Raises CallError (RESOURCE_EXHAUSTED) if the owner may hold no other."""
        held = self._held.get(owner, 0)
        if held >= self._free:
            raise too_many_calls(f"{held} calls of yours are under way, more are not taken now")
        self._held[owner] = held + 1
        self._free -= 1

    def give_back(self, owner: Hashable) -> None:
        """Gives back a place that was taken."""
        self._free += 1
        held = self._held[owner] - 1
        if held:
            self._held[owner] = held
        else:
            del self._held[owner]


def too_many_calls(message: str) -> CallError:
    """RESOURCE_EXHAUSTED for a call over a limit. Nothing of it was done."""
    return CallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.TOO_MANY_CALLS,
        f"{message}; send it again after the delay",
        retry_after_ms=1_000,
    )
