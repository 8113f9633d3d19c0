"""``oracle``: one model per true group, for clients that say which group they are in.

The yardstick that no honest method beats by much, and the only method whose training reads groups.
"""

from __future__ import annotations

from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fixed_latent import FixedLatent


def oracle(config: MethodConfig) -> FixedLatent:
    """The same head, features, steps and rounds as the methods, with z at the true group's prototype."""
    return FixedLatent(config, "oracle", reads_groups=True)
