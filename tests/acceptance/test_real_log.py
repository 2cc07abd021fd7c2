"""A real access log, imported by the command line, and every report on it against an independent recount."""

import gzip
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.oracle.log_recount import pageviews, paired, read_lines
from tests.oracle.raw_events import DAY, HOUR, MINUTE, RawEvent
from tests.oracle.recount import Recount
from tests.support.footfall_site import FootfallSite

if TYPE_CHECKING:
    from tests.support.suite import Suite

ROOT = Path(__file__).parents[2]
LOG = ROOT / "examples" / "semicomplete-2015-05.access.log.gz"
SESSION_TIMEOUT = 30 * MINUTE


def instant(text: str) -> int:
    """Microseconds since 1970 of a time in UTC."""
    found = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


WHOLE = instant("2015-05-17"), instant("2015-05-21")

RANGES = {
    "all days of the log": WHOLE,
    "all of May": (instant("2015-05-01"), instant("2015-06-01")),
    "one whole day": (instant("2015-05-18"), instant("2015-05-19")),
    "whole hours inside a day": (instant("2015-05-18T07:00"), instant("2015-05-18T16:00")),
    "whole hours across midnight": (instant("2015-05-18T21:00"), instant("2015-05-19T02:00")),
    "odd instants, three days": (instant("2015-05-17T20:05:31.5"), instant("2015-05-20T09:05:07.000001")),
    "odd instants inside a day": (instant("2015-05-19T03:05:29"), instant("2015-05-19T18:05:30.25")),
    "odd start, whole end": (instant("2015-05-17T13:05:44"), instant("2015-05-20")),
    "whole start, odd end": (instant("2015-05-18"), instant("2015-05-20T20:05:58.999999")),
    "a part of one hour": (instant("2015-05-19T10:05:10"), instant("2015-05-19T10:05:40")),
    "one second": (instant("2015-05-19T10:05:21"), instant("2015-05-19T10:05:22")),
    "nothing": (instant("2015-05-19T10:10"), instant("2015-05-19T10:55")),
}


@dataclass(frozen=True)
class Table:
    """What the command printed at its end."""

    text: str
    returncode: int

    def __getitem__(self, row: str) -> int:
        """The number of the row; 0 if it is not there."""
        return self.rows.get(row, 0)

    @property
    def rows(self) -> dict[str, int]:
        """Every row that ends in a number."""
        found = re.findall(r"^\W*(\w.*?)\W+([\d,]+)\W*$", self.text, re.MULTILINE)
        return {name: int(number.replace(",", "")) for name, number in found}


def import_log(suite: "Suite", site: FootfallSite, log: Path, *options: str) -> Table:
    command = [sys.executable, "-m", "cli.main", "import", "access-log", str(log), "--site", site.slug]
    done = subprocess.run(
        [*command, "--data-dir", str(suite.data_dir), *options],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Table(done.stdout + done.stderr, done.returncode)


@dataclass(frozen=True)
class Imported:
    """The log in a site, aggregated, beside our own reading of it."""

    site: FootfallSite
    table: Table
    own: list[RawEvent]
    """As we name things."""
    pairs: list[tuple[RawEvent, RawEvent]]
    """Each of them beside the same event as the product names things."""
    recount: Recount
    """Of the latter."""


@pytest.fixture(scope="module")
def imported(suite: "Suite") -> Imported:
    site = FootfallSite(suite, "real-log", rollup_shard_count=4)
    table = import_log(suite, site, LOG, "--include-bots")
    assert table.returncode == 0, table.text
    own = list(pageviews(read_lines(LOG)))
    assert site.aggregate() == len(own)
    pairs = paired(own, site.events(page_size=1000))
    return Imported(site, table, own, pairs, Recount([stored for _, stored in pairs], SESSION_TIMEOUT))


def test_the_import_says_what_became_of_every_line(imported: Imported) -> None:
    """The one line that is cut off is malformed; all pageviews are accepted, equal lines too."""
    table = imported.table
    assert table["lines read"] == len(read_lines(LOG)) == 10_000
    assert table["pageviews sent"] == table["accepted"] == len(imported.own)
    assert (table["duplicate"], table["rejected"]) == (0, 0)
    skipped = sum(number for row, number in table.rows.items() if row.startswith("skipped: "))
    assert skipped == 10_000 - len(imported.own)
    assert table["skipped: malformed"] == 1
    assert "8,899" in table.text or "8899" in table.text


@pytest.mark.parametrize(("start", "end"), [pytest.param(*span, id=name) for name, span in RANGES.items()])
def test_every_report_of_the_log_equals_the_recount(imported: Imported, start: int, end: int) -> None:
    """Overview, hours and days, the top of every dimension with all metrics, sessions and events."""
    for query, expected, answered in imported.site.compare(imported.recount, start, end):
        assert answered == expected, query


def test_the_hours_and_the_days_of_the_log_add_up_to_the_whole(imported: Imported) -> None:
    """All but visitors, who are one visitor of many hours."""
    whole = imported.site.overview(*WHOLE)
    for length in (HOUR, DAY):
        buckets = [metrics for _, metrics in imported.site.timeseries(*WHOLE, length)]
        assert len(buckets) == 4 * DAY // length
        for name in ("events", "pageviews", "sessions", "new_visitors"):
            assert sum(getattr(metrics, name) for metrics in buckets) == getattr(whole, name)
        assert sum(metrics.visitors for metrics in buckets) > whole.visitors


@pytest.mark.parametrize("page_size", [1, 37, 500])
def test_the_lists_of_the_log_hold_every_row_once_at_any_page_size(imported: Imported, page_size: int) -> None:
    """Though hundreds of rows show the same second."""
    span = RANGES["one whole day" if page_size == 1 else "all of May"]
    assert imported.site.session_rows(span, page_size) == imported.site.session_rows(span, 1000)
    assert imported.site.events(span, page_size) == imported.site.events(span, 1000)
    assert len(imported.site.events(span, page_size)) == len(imported.recount.events(*span))


def test_one_user_agent_has_one_browser_system_and_device(imported: Imported) -> None:
    """What they are is the library's to say; who has none, such as "-", has no row."""
    said: dict[str, set[tuple[str, str, str]]] = {}
    for own, stored in imported.pairs:
        user_agent = own.visitor_id.partition(" ")[2]
        said.setdefault(user_agent, set()).add((stored.browser, stored.os, stored.device))
    assert {len(classes) for classes in said.values()} == {1}
    assert said["-"] == {("", "", "")}
    for dimension in ("browser", "os", "device"):
        rows = imported.site.top(dimension, *WHOLE)
        assert rows
        assert sum(metrics.events for _, metrics in rows) <= len(imported.own)


def test_no_address_is_stored(imported: Imported) -> None:
    """Of who a visitor was, only a hash goes out."""
    addresses = {event.visitor_id.partition(" ")[0] for event in imported.own}
    for event in imported.site.events(page_size=1000):
        assert not addresses & {event.visitor_id, event.session_id, event.user_id, event.event_id}
        assert event.properties == {}


def test_importing_the_log_again_adds_nothing(suite: "Suite", imported: Imported) -> None:
    """Every pageview is a duplicate, and every answer stays as it was."""
    again = import_log(suite, imported.site, LOG, "--include-bots")
    assert again.returncode == 0, again.text
    assert again["duplicate"] == again["pageviews sent"] == len(imported.own)
    assert (again["accepted"], again["rejected"]) == (0, 0)
    assert imported.site.aggregate() == 0
    for query, expected, answered in imported.site.compare(imported.recount, *WHOLE):
        assert answered == expected, query


def test_bots_are_left_out_unless_asked_for(suite: "Suite", imported: Imported) -> None:
    """People's pageviews are the same as with the bots; the sum of all lines stays."""
    site = FootfallSite(suite, "real-log-people")
    table = import_log(suite, site, LOG)
    assert table.returncode == 0, table.text
    assert 1000 < table["accepted"] < len(imported.own)
    assert table["accepted"] + table["skipped: bot"] == len(imported.own)
    assert site.aggregate() == table["accepted"]
    people = {event.visitor_id for event in site.events(page_size=1000)}
    kept = [event for event in imported.recount.all_events if event.visitor_id in people]
    for query, expected, answered in site.compare(Recount(kept, SESSION_TIMEOUT), *WHOLE):
        assert answered == expected, query
    crawlers = {
        stored.visitor_id
        for own, stored in imported.pairs
        if re.search("Googlebot|bingbot|YandexBot|Baiduspider", own.visitor_id)
    }
    assert len(crawlers) > 50
    assert not crawlers & people


def test_what_is_no_log_line_is_counted_and_the_first_is_shown(suite: "Suite", tmp_path: Path) -> None:
    """Binary and cut-off lines between good ones; a gzip file that ends too early gives what it holds."""
    lines = read_lines(LOG)[:2000]
    site = FootfallSite(suite, "real-log-broken")
    broken = tmp_path / "broken.log"
    texts = [line.encode() for line in lines]
    broken.write_bytes(b"\n".join([*texts[:1000], b"\x00\xff\x1f\x8b", b"cut off [", *texts[1000:]]) + b"\n")
    table = import_log(suite, site, broken, "--include-bots")
    assert table.returncode == 0, table.text
    assert table["accepted"] == len(list(pageviews(lines)))
    assert table["skipped: malformed"] == 2
    assert "1,001" in table.text or "1001" in table.text

    cut = tmp_path / "cut.log.gz"
    cut.write_bytes(gzip.compress("\n".join(lines).encode())[:-2000])
    table = import_log(suite, site, cut, "--include-bots")
    assert table.returncode != 0
    assert 0 < table["duplicate"] < len(list(pageviews(lines)))
    assert table["accepted"] == 0
