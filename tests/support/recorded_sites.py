"""The recorded cases, sent to sites of the running services."""

from tests.oracle.recorded_cases import Batch
from tests.support.footfall_site import FootfallSite


def ingest(site: FootfallSite, batches: list[Batch]) -> None:
    """Sends batches that the site does not know yet."""
    for batch in batches:
        response = site.send(batch.request())
        assert (response.accepted, response.duplicate, response.rejected) == (len(batch.raw_events()), 0, 0)
