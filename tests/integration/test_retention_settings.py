"""Retention settings mean what they say, from the next run on."""

from typing import Any

import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from google.protobuf import field_mask_pb2

from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite
from tests.support.refusals import invalid, refusal_of
from tests.support.site_rows import site_id_of
from tests.support.suite import Suite
from tests.support.traffic import START, batch_of, made_up
from tests.support.upkeep import RETENTIONS, cleanup, compact, keep, sizes

SHARED, RAW, HOURLY, DAILY = RETENTIONS
OLD = START + 20 * DAY
"""All of the traffic is 10 to 21 days old by then."""

Connection = psycopg.Connection[Any]


@pytest.fixture
def site(suite: Suite) -> FootfallSite:
    """A site with a few days of traffic, aggregated and compacted, all of it kept."""
    made = FootfallSite(suite, "retention")
    made.send(batch_of(made_up(531, visitors=4, events=40)))
    made.aggregate()
    compact(made)
    return made


def would_go(site: FootfallSite) -> set[str]:
    """The kinds of which something would go."""
    return {kind for kind, rows in cleanup(site, OLD, dry_run=True).items() if rows}


def test_raw_and_hourly_follow_the_shared_one_until_they_are_set(site: FootfallSite) -> None:
    """And again once they are unset by a mask that names them; each call of cleanup heeds what is set then."""
    assert would_go(site) == set()
    keep(site, **{SHARED: 5})
    assert would_go(site) == {"events", "sessions", "hourly_rollups"}
    keep(site, **{RAW: 300})
    assert would_go(site) == {"hourly_rollups"}
    keep(site, **{HOURLY: 300})
    assert would_go(site) == set()
    keep(site, **{RAW: None})
    assert would_go(site) == {"events", "sessions"}
    settings = keep(site, **{HOURLY: None})
    assert not settings.HasField("raw_event_retention_days")
    assert not settings.HasField("hourly_rollup_retention_days")
    assert would_go(site) == {"events", "sessions", "hourly_rollups"}
    keep(site, **{SHARED: 300})
    assert would_go(site) == set()


def test_day_rows_are_kept_for_ever_unless_a_retention_is_set(site: FootfallSite) -> None:
    """The shared one is not theirs."""
    keep(site, **{SHARED: 1})
    assert "daily_rollups" not in would_go(site)
    keep(site, **{DAILY: 5})
    assert would_go(site) == {"events", "sessions", "hourly_rollups", "daily_rollups", "visitors"}
    keep(site, **{DAILY: None})
    assert "daily_rollups" not in would_go(site)
    assert "visitors" not in would_go(site)


def test_a_mask_of_all_settings_unsets_what_it_does_not_name(site: FootfallSite) -> None:
    """The shared retention is 90 days again, the others follow it."""
    keep(site, **{SHARED: 5, RAW: 6, HOURLY: 7, DAILY: 8})
    request = admin_pb2.UpdateSiteRequest(
        site=admin_pb2.Site(slug=site.slug), update_mask=field_mask_pb2.FieldMask(paths=["settings"])
    )
    settings = site.operator.UpdateSite(request, metadata=site.as_admin).site.settings
    assert settings.retention_days == 90
    assert not {field.name for field, _ in settings.ListFields()} & {RAW, HOURLY, DAILY}
    assert would_go(site) == set()


@pytest.mark.parametrize("name", RETENTIONS)
@pytest.mark.parametrize("days", [-1, 0, 365_001, -(2**31)])
def test_a_retention_that_makes_no_sense_is_refused(site: FootfallSite, name: str, days: int) -> None:
    """And what was set before stays set."""
    keep(site, **{name: 77})
    assert refusal_of(keep, site, **{name: days}) == invalid("VALUE_OUT_OF_RANGE", f"site.settings.{name}")
    answer = site.operator.GetSite(admin_pb2.GetSiteRequest(site=site.slug), metadata=site.as_admin)
    assert getattr(answer.site.settings, name) == 77


def test_what_is_gone_does_not_come_back_when_a_retention_grows_but_reports_say_so(
    site: FootfallSite, database: Connection
) -> None:
    """A longer retention counts from then on."""
    keep(site, **{SHARED: 5})
    cleanup(site, OLD)
    keep(site, **{SHARED: 36_500})
    assert sizes(database, site_id_of(database, site))["events"] == 0
    assert would_go(site) == set()
