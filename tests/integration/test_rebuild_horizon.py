"""A rebuild of a site whose old raw events are gone writes nothing of what began before its horizon."""

from dataclasses import replace

from footfall.admin.v1 import admin_pb2
from google.protobuf import field_mask_pb2

from tests.oracle.raw_events import DAY, HOUR, MINUTE
from tests.support.footfall_site import FootfallSite
from tests.support.hands import Hands
from tests.support.rebuilding import instant_of, rebuilt
from tests.support.retention import clean_up
from tests.support.traffic import START, batch_of, made_up

HORIZON = START + 2 * DAY


def test_deltas_before_the_horizon_stay(hands: Hands) -> None:
    """Not yet compacted, they are the only place of those numbers: their raw events are gone."""
    events = made_up(57, visitors=6, events=120)
    site = FootfallSite(hands.suite, "rebuild-deltas")
    site.send(batch_of(events))
    site.aggregate()
    clean_up(hands.connection, hands.site_id(site), instant_of(HORIZON - HOUR))
    at = f"bucket_start < '{instant_of(HORIZON).isoformat()}'"
    old = hands.rows(site, "rollup_shards", f"delta_no > 0 AND {at}")
    assert old
    before = hands.tables(site)
    rebuilt(site)
    assert hands.rows(site, "rollup_shards", f"delta_no > 0 AND {at}") == old
    assert hands.tables(site) == before


def test_a_session_before_the_horizon_stays_when_the_timeout_has_grown(hands: Hands) -> None:
    """Its raw events are gone, so it is not merged with a later session that the new timeout would join to it."""
    stays, later = (
        replace(event, visitor_id="ann", session_id="", type="pageview", name="", occurred_at=HORIZON + minute * MINUTE)
        for event, minute in zip(made_up(58, visitors=1, events=2), (-5, 45), strict=True)
    )
    site = FootfallSite(hands.suite, "rebuild-timeout")
    site.send(batch_of([stays, later]))
    site.aggregate()
    clean_up(hands.connection, hands.site_id(site), instant_of(HORIZON - HOUR))
    old = f"started_at < '{instant_of(HORIZON).isoformat()}'"
    before = hands.rows(site, "sessions", old)
    assert (len(before), len(hands.rows(site, "sessions"))) == (1, 2)
    changed = admin_pb2.Site(slug=site.slug)
    changed.settings.session_timeout.FromSeconds(2 * 3_600)
    site.operator.UpdateSite(
        admin_pb2.UpdateSiteRequest(
            site=changed, update_mask=field_mask_pb2.FieldMask(paths=["settings.session_timeout"])
        ),
        metadata=site.as_admin,
    )
    rebuilt(site)
    assert hands.rows(site, "sessions", old) == before
    assert len(hands.rows(site, "sessions")) == 2
