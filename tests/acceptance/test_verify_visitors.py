"""`footfall verify` compares visitors too; and of a site whose old raw events have gone, what the others tell."""

import pytest

from tests.oracle.raw_events import DAY, HOUR
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.hands import Hands
from tests.support.rebuilding import instant_of, sent
from tests.support.retention import clean_up
from tests.support.traffic import START, made_up
from tests.support.upkeep import compact


def damage(hands: Hands, site: FootfallSite, statement: str) -> None:
    """Changes something of the site."""
    assert hands.connection.execute(statement, {"site_id": hands.site_id(site)}).rowcount > 0


ONE_VISITOR = """
WHERE site_id = %(site_id)s
  AND visitor_no = (SELECT max(visitor_no) FROM visitors WHERE site_id = %(site_id)s)
"""


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE visitors SET first_touch = first_touch || '{"path": "/other"}'""",
        """UPDATE visitors SET last_touch = last_touch || '{"source": "other"}'""",
        "UPDATE visitors SET first_seen_at = first_seen_at + interval '1 microsecond'",
        "UPDATE visitors SET last_seen_at = last_seen_at + interval '1 microsecond'",
        "UPDATE visitors SET user_id = 'somebody else'",
        """UPDATE visitors SET traits = '{"plan": "other"}'""",
        "DELETE FROM visitors",
    ],
)
def test_a_wrong_visitor_is_found(hands: Hands, change: str) -> None:
    """One value of one of them, and one who is missing."""
    site = sent(hands, "verify-visitors", made_up(31, visitors=6, events=50))
    code, output = footfall(hands.suite, "verify", "--site", site.slug)
    assert code == 0, output
    damage(hands, site, change + ONE_VISITOR)
    code, output = footfall(hands.suite, "verify", "--site", site.slug)
    assert code == 1, output
    assert "visitors of" in output


RAW_FROM = START + DAY + 5 * HOUR


@pytest.fixture
def cleaned(hands: Hands) -> FootfallSite:
    """A site whose first day and some hours have gone, hour rows too."""
    site = sent(hands, "verify-cleaned", made_up(32, visitors=9, events=250))
    compact(site)
    clean_up(hands.connection, hands.site_id(site), instant_of(RAW_FROM), instant_of(RAW_FROM - 2 * HOUR))
    return site


def test_what_is_left_is_verified_and_the_rest_left_out(hands: Hands, cleaned: FootfallSite) -> None:
    """From a session timeout after the first raw event that is left; who is new is not asked. It says so."""
    for options in ((), ("--start", "2020-01-01"), ("--start", instant_of(RAW_FROM + DAY).isoformat())):
        code, output = footfall(hands.suite, "verify", "--site", cleaned.slug, *options)
        assert code == 0, output
        assert "compared from 2024-02-29 05:30:00 UTC on, without new visitors" in output
    damage(hands, cleaned, "UPDATE rollup_shards SET new_visitors = new_visitors + 1 WHERE site_id = %(site_id)s")
    assert footfall(hands.suite, "verify", "--site", cleaned.slug)[0] == 0


def test_when_nothing_is_left_there_is_nothing_to_compare(hands: Hands, cleaned: FootfallSite) -> None:
    """Exit code 0 and one line."""
    clean_up(hands.connection, hands.site_id(cleaned), instant_of(START + 90 * DAY))
    code, output = footfall(hands.suite, "verify", "--site", cleaned.slug)
    assert (code, "nothing to compare" in output) == (0, True)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rollup_shards SET events = events + 1 WHERE site_id = %(site_id)s AND dimension = 0 AND "
        "interval = 2 AND bucket_start = '2024-03-01Z'",
        "UPDATE rollup_shards SET duration_us = duration_us + 1000 WHERE site_id = %(site_id)s AND dimension = 12",
        "UPDATE sessions SET ended_at = ended_at + interval '1 s' WHERE site_id = %(site_id)s",
        "DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND dimension = 4",
        "UPDATE visitors SET last_seen_at = last_seen_at + interval '1 microsecond'" + ONE_VISITOR,
        """UPDATE visitors SET last_touch = last_touch || '{"source": "other"}'""" + ONE_VISITOR,
        "DELETE FROM visitors" + ONE_VISITOR,
    ],
)
def test_what_is_wrong_of_the_rest_is_found(hands: Hands, cleaned: FootfallSite, change: str) -> None:
    """Rollups, sessions and the latest of every visitor."""
    damage(hands, cleaned, change)
    code, output = footfall(hands.suite, "verify", "--site", cleaned.slug)
    assert code == 1, output
