"""``global``: one model for all users, FedAvg of one head with z = 0. The yardstick that personalisation must beat."""

from __future__ import annotations

from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fixed_latent import FixedLatent
from fedvpa.selector.config import InferenceConfig


def global_model(config: MethodConfig) -> FixedLatent:
    """The same head, features, steps and rounds as the methods, without a latent."""
    return FixedLatent(config, "global", reads_groups=False, inference=InferenceConfig(method="none"))
