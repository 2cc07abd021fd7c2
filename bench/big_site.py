"""Generates and loads sites with millions of events."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.aggregated_dataset import derive
from bench.command_line import say
from bench.dashboard import Span
from bench.dataset import START, Shape, generate
from bench.loader import load, settle, without_indexes
from bench.own_suite import Stage

EVENTS = 10_000_000
SESSION_TIMEOUT_US = 30 * 60 * 1_000_000
"""The default of a site."""

_ROUND = 1_000


@dataclass(frozen=True)
class BigSite:
    """A loaded site and the DuckDB file with the same events."""

    slug: str
    site_id: int
    write_key: str
    shape: Shape
    file: Path

    @property
    def span(self) -> Span:
        """The whole days in which all events of the site lie."""
        return START, self.shape.end


def shape_at(scale: float, events: int = EVENTS) -> Shape:
    """`scale` times `events` events, over the same hours and keys."""
    return Shape(max(_ROUND, round(events * scale / _ROUND) * _ROUND))


def load_sites(stage: Stage, shapes: dict[str, Shape]) -> list[BigSite]:
    """Creates and loads each site (by slug), builds the indexes and collects the statistics."""
    made = [_generate(stage, slug, shape) for slug, shape in shapes.items()]
    with without_indexes(stage.database_url):
        for site in made:
            load(site.file, stage.database_url, site.site_id)
            say(f"{site.slug}: {site.shape.events:,} events loaded")
    settle(stage.database_url)
    say("indexes built")
    return made


def total_events(sites: Sequence[BigSite]) -> int:
    """The number of events of all sites."""
    return sum(site.shape.events for site in sites)


def _generate(stage: Stage, slug: str, shape: Shape) -> BigSite:
    file = stage.folder / f"{slug}.duckdb"
    generate(file, shape)
    derive(file, session_timeout_us=SESSION_TIMEOUT_US)
    say(f"{slug}: {shape.events:,} events generated")
    write_key = stage.create_site(slug)
    return BigSite(slug, stage.site_id(slug), write_key, shape, file)
