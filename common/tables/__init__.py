"""The schema, as the migrations make it. A test compares the two.

Every table of a site's data has `site_id`, and every key of it begins with that column, so that the database can be
distributed by site. `sites`, `api_keys` and `secrets` are small and shared.
"""

from common.tables import derived, events, maintenance, sites
from common.tables.columns import metadata

__all__ = ["derived", "events", "maintenance", "metadata", "sites"]
