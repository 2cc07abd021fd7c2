"""FOOTFALL_* variables that nothing reads: most often misspelt ones."""

import difflib
from collections.abc import Iterable

from common.settings import PREFIX, Settings

_OF_SERVICES = frozenset(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
_OF_COMMANDS = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("DATA_DIR", "INGEST", "QUERY", "ADMIN", "ADMIN_KEY", "DATABASE_URL", "WRITE_KEY"),
        *("TLS_CA", "TLS_CLIENT_CERTIFICATE", "TLS_CLIENT_KEY", "TLS_SERVER_NAME"),
    )
)
_OF_TESTS = frozenset(f"{PREFIX}{name}" for name in ("CI", "EXAMPLES", "TEST_DATABASE_URL"))

KNOWN = _OF_SERVICES | _OF_COMMANDS
"""The variables of services and commands; docs/settings.md explains each."""


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A line for each of the variables that begins as Footfall's do and is none of them. Values are not told."""
    lines = []
    for name in sorted(names):
        # Services read them in any case.
        if name.upper().startswith(PREFIX) and name.upper() not in KNOWN | _OF_TESTS:
            # Compared without what all of them begin with.
            known = [one.removeprefix(PREFIX) for one in sorted(KNOWN)]
            near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, 1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else "docs/settings.md lists all"
            lines.append(f"{name} is no setting of Footfall and has no effect; {hint}")
    return lines
