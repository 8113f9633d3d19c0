"""How a policy reads texts: as the features of its selector do, unless the configuration says otherwise."""

from __future__ import annotations

from fedvpa.features.config import FeatureConfig
from fedvpa.policy.config import PolicyConfig


def with_template(config: PolicyConfig, features: FeatureConfig) -> PolicyConfig:
    """Stage 2 with ``template`` and ``template_arguments`` filled in.

    Args:
        config: Stage 2.
        features: What it follows where it says nothing.
    """
    arguments = features.template_arguments if config.template_arguments is None else config.template_arguments
    return config.model_copy(update={"template": config.template or features.template, "template_arguments": arguments})
