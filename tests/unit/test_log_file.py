"""Access logs as files: plain or gzip, damaged, binary, with lines of any length."""

import gzip
import os
from pathlib import Path

import pytest

from cli.access_log import (
    MAX_LINE_BYTES,
    LogFile,
    parse_line,
)
from tests.unit.log_lines import REAL_LOG, line


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_plain_or_gzip_whatever_their_name(tmp_path: Path, packed: bool) -> None:
    """The first bytes tell gzip; line breaks of both kinds and a missing last one are fine."""
    text = line() + b"\r\n" + line(referrer=b"/x") + b"\n" + line(referrer=b"/y")
    path = tmp_path / "log.txt"
    path.write_bytes(gzip.compress(text) if packed else text)
    with LogFile(path) as log:
        assert list(log) == text.splitlines()
        assert not log.damage


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    """And that is no damage."""
    path = tmp_path / "log"
    path.touch()
    with LogFile(path) as log:
        assert (list(log), log.size, log.damage) == ([], 0, "")


def test_a_truncated_gzip_file_gives_what_comes_before_the_cut(tmp_path: Path) -> None:
    """Its lines are those of the whole file from the first on, and the damage is told."""
    path = tmp_path / "cut.gz"
    path.write_bytes(REAL_LOG.read_bytes()[:100_000])
    with LogFile(path) as log, LogFile(REAL_LOG) as whole:
        lines = list(log)
        assert lines == list(whole)[: len(lines)]
        assert len(lines) > 4_000
        assert "ended before" in log.damage


def test_a_spoilt_gzip_file_does_not_raise(tmp_path: Path) -> None:
    """Bytes that were changed, or that follow the end, are told as damage."""
    packed = bytearray(REAL_LOG.read_bytes())
    packed[50_000:50_100] = bytes(100)
    (tmp_path / "spoilt").write_bytes(packed)
    (tmp_path / "followed").write_bytes(gzip.compress(line() + b"\n") + b"garbage")
    with LogFile(tmp_path / "spoilt") as log:
        assert len(list(log)) > 1_000
        assert log.damage
    with LogFile(tmp_path / "followed") as log:
        assert list(log) == [line()]
        assert log.damage


def test_a_binary_file_is_all_malformed(tmp_path: Path) -> None:
    """No random bytes make a request."""
    path = tmp_path / "binary"
    path.write_bytes(os.urandom(200_000))
    with LogFile(path) as log:
        assert not any(parse_line(text) for text in log)


@pytest.mark.parametrize("ending", [b"\n" + line() + b"\n", b""])
def test_a_line_without_an_end_is_one_malformed_line_and_its_neighbours_are_kept(tmp_path: Path, ending: bytes) -> None:
    """Of an overlong line only the first 64 KiB are ever held."""
    path = tmp_path / "long"
    path.write_bytes(line() + b"\n" + b"x" * (5 * MAX_LINE_BYTES) + ending)
    with LogFile(path) as log:
        found = [(len(text), parse_line(text) is not None) for text in log]
    good = (len(line()), True)
    assert found == [good, (MAX_LINE_BYTES + 1, False)] + [good] * bool(ending)


def test_a_line_of_exactly_the_longest_length_is_kept(tmp_path: Path) -> None:
    """64 KiB without the line break is not too long."""
    longest = line(user_agent=b"x" * (MAX_LINE_BYTES - len(line(user_agent=b""))))
    path = tmp_path / "log"
    path.write_bytes(longest + b"\n" + line() + b"\n")
    with LogFile(path) as log:
        assert [parse_line(text) is not None for text in log] == [True, True]


@pytest.mark.parametrize("path", ["missing", "."])
def test_what_is_no_file_cannot_be_opened(tmp_path: Path, path: str) -> None:
    """OSError says why."""
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        LogFile(tmp_path / path)
