"""An outage is told in few lines: the first at once, and then how many more there were."""

import logging
from collections.abc import Iterator

import pytest

from common.telemetry.log_repeats import RepeatFilter


class _Written(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Log:
    """A logger with a filter, and what it has written."""

    def __init__(self) -> None:
        self._handler = _Written()
        self.repeats = RepeatFilter(self._handler.emit)
        self._handler.addFilter(self.repeats)
        self.logger = logging.getLogger("tests.repeats")
        self.logger.addHandler(self._handler)
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)

    def taken(self) -> list[str]:
        lines, self._handler.lines = self._handler.lines, []
        return lines

    def close(self) -> None:
        self.logger.removeHandler(self._handler)


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


def test_repeats_are_one_line_with_their_number(log: Log) -> None:
    """An exception may have another text each time, and several lines of it."""
    for port in range(5):
        log.logger.warning("database unavailable: %s", OSError(f"port {port}\n\tIs the server\nrunning?"))
    assert log.taken() == ["database unavailable: port 0 Is the server running?"]
    log.repeats.flush()
    assert log.taken() == ["database unavailable: port 4 Is the server running? (4 more like it in the last 60 s)"]


def test_an_outage_that_lasts_is_a_line_an_interval(log: Log) -> None:
    for _ in range(3):
        for _ in range(100):
            log.logger.warning("%s could not run: %s", "aggregate", OSError("away"))
        log.repeats.flush()
    assert [line.rpartition("(")[2].split(" ")[0] for line in log.taken()] == ["aggregate", "99", "100", "100"]
    log.repeats.flush()
    log.logger.warning("%s could not run: %s", "aggregate", OSError("away"))
    assert log.taken() == ["aggregate could not run: away"]


def test_other_lines_are_let_through(log: Log) -> None:
    """Of another job, of another level, and those with a stack trace, each time."""
    for _ in range(2):
        log.logger.warning("%s could not run: %s", "fold", OSError("away"))
        log.logger.warning("%s could not run: %s", "prune", OSError("away"))
        log.logger.error("%s could not run: %s", "prune", OSError("away"))
        log.logger.info("it serves")
        log.logger.error("a call failed", exc_info=ValueError("x"))
    lines = log.taken()
    assert [lines.count(line) for line in ("it serves", "a call failed")] == [2, 2]
    assert (lines.count("fold could not run: away"), lines.count("prune could not run: away")) == (1, 2)


def test_the_memory_of_kinds_is_bounded(log: Log) -> None:
    """Nothing is lost over it: what was held back is told then."""
    log.logger.warning("first")
    log.logger.warning("first")
    for number in range(2_500):
        log.logger.warning("number %d", number)
    lines = log.taken()
    assert "first (1 more like it in the last 60 s)" in lines
    assert sum(line.startswith("number") for line in lines) == 2_500
