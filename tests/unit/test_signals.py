"""SIGHUP is told apart from the end of a terminal."""

import os
import pty
import signal
import sys
from pathlib import Path

from tests.support.processes import eventually

WATCHING = """
import os, sys, threading
sys.stdin = None
from pathlib import Path
from common.process import signals
notes, stop = Path(sys.argv[1]), threading.Event()
def note(text):
    with notes.open("a") as file:
        file.write(text + " ")
signals.watch().tell(lambda: (note("stop"), stop.set()), lambda: note("hangup"))
note("ready")
while not stop.wait(0.1):
    pass
"""
ROOT = Path(__file__).parents[2]


def started_in_terminal(notes: Path) -> tuple[int, int]:
    """A process that notes what it is told, in a terminal of its own: its id and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", WATCHING, str(notes)])
    eventually(lambda: notes.exists() and "ready" in notes.read_text())
    return pid, terminal


def test_a_hangup_in_an_open_terminal_is_no_stop_and_its_end_is(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    pid, terminal = started_in_terminal(notes)
    os.kill(pid, signal.SIGHUP)
    eventually(lambda: notes.read_text() == "ready hangup ")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert notes.read_text() == "ready hangup stop "
