"""What a terminal or a file can take: characters that its encoding lacks, and an end of the output that comes early."""

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
    """Runs a command. Its output shows plain characters where the terminal's encoding has no others.

    Raises SystemExit: with 1 and one line when the output cannot be written, as on a full disk; with 141, as other
    commands, when its reader has closed the pipe.
    """
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")
    try:
        try:
            command()
        finally:
            # Here and not while the interpreter ends, where an error can no longer be told.
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        # What is left in the buffer would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            raise SystemExit(141) from None
        raise SystemExit(f"the output cannot be written: {error.strerror}") from None


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: block characters become # and ., lines of boxes - and |, all others ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(map(_in_ascii, text)), error.end


def _in_ascii(character: str) -> str:
    if ord(character) in _BOX:
        return "|" if character in "│┃║" else "-"
    return character if character.isascii() else "?"
