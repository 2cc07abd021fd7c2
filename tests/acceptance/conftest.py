"""The recorded cases as sites of the running suite."""

from typing import TYPE_CHECKING

import pytest

from tests.oracle.recorded_cases import (
    BASIC_BATCHES,
    STREAM_BATCHES,
)
from tests.support.footfall_site import FootfallSite

if TYPE_CHECKING:
    from tests.support.suite import Suite


from tests.support.recorded_sites import ingest


@pytest.fixture(scope="session")
def basic(suite: "Suite") -> FootfallSite:
    """The first case, aggregated, over eight partitions."""
    site = FootfallSite(suite, "golden-basic", rollup_shard_count=8)
    ingest(site, BASIC_BATCHES)
    assert site.aggregate() == 8
    return site


@pytest.fixture(scope="session")
def stream(suite: "Suite") -> FootfallSite:
    """The stream, aggregated after every batch, over one partition."""
    site = FootfallSite(suite, "golden-stream", rollup_shard_count=1)
    for batch in STREAM_BATCHES:
        ingest(site, [batch])
        assert site.aggregate() == len(batch.raw_events())
    return site
