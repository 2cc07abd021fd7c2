"""The schema. Migrations make it; a test holds the two against each other.

Every tenant table carries `site_id`, and every key of it begins with that, so that the database can be distributed by
site. `sites`, `api_keys` and `secrets` are small and shared.
"""

from common.tables import derived, events, maintenance, sites
from common.tables.columns import metadata

__all__ = ["derived", "events", "maintenance", "metadata", "sites"]
