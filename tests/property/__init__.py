"""The laws of Footfall as properties: random streams, random histories, one recount."""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FOOTFALL_EXAMPLES", "50"))
"""Examples of all properties together; a full run asks for 500 or more."""


def examples(share: float) -> settings:
    """The settings of a property that gets this share of the examples; an example is a story of seconds."""
    return settings(
        max_examples=max(1, round(EXAMPLES * share)),
        deadline=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
