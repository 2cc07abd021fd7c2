"""Output on any terminal or file: replaces characters that its encoding lacks, and handles output that fails."""

import codecs
import errno
import os
import sys
from collections.abc import Callable

_PLAIN = str.maketrans(
    {**dict.fromkeys("█▉▊▋▌▇▆▅", "#"), **dict.fromkeys("▍▎▏▄▃▂▁", "."), "…": "~", "–": "-", "―": "-"}
)
_BOX = range(0x2500, 0x2580)


def run(command: Callable[[], object]) -> None:
    """Runs a command. Characters that the terminal's encoding lacks are replaced by plain ones.

    Raises SystemExit: with 1 and one line if the output cannot be written, for example on a full disk; with 141, like
    other commands, if the reader of a pipe has closed it.
    """
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")
    try:
        try:
            command()
        finally:
            # Not left to the end of the interpreter, where an error could no longer be reported.
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        # The rest of the buffer would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            raise SystemExit(141) from None
        raise SystemExit(f"the output cannot be written: {error.strerror}") from None


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler for codecs. Block characters become # or ., box lines - or |, all others ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(map(_in_ascii, text)), error.end


def _in_ascii(character: str) -> str:
    if ord(character) in _BOX:
        return "|" if character in "│┃║" else "-"
    return character if character.isascii() else "?"
