"""How a policy is loaded and reads texts: as the features of its selector are, unless the configuration says else."""

from __future__ import annotations

from fedvpa.features.config import FeatureConfig
from fedvpa.models.loading_config import DEFAULT, LoadingConfig
from fedvpa.policy.config import PolicyConfig


def with_template(config: PolicyConfig, features: FeatureConfig) -> PolicyConfig:
    """Stage 2 with ``template``, ``template_arguments`` and ``loading`` filled in.

    Args:
        config: Stage 2.
        features: What it follows where it says nothing.
    """
    arguments = features.template_arguments if config.template_arguments is None else config.template_arguments
    return config.model_copy(
        update={
            "template": config.template or features.template,
            "template_arguments": arguments,
            "loading": loading_of(config, features),
        }
    )


def with_base(config: PolicyConfig, features: FeatureConfig) -> PolicyConfig:
    """Stage 2 with ``model`` and ``loading`` filled in: what names its base.

    Args:
        config: Stage 2.
        features: What it follows where it says nothing.

    Raises:
        ConfigError: If neither names a language model.
    """
    model = config.model or features.named_model()
    return config.model_copy(update={"model": model, "loading": loading_of(config, features)})


def loading_of(config: PolicyConfig, features: FeatureConfig) -> LoadingConfig:
    """How the base is fetched and loaded: as the features' model is, where it is that one and nothing else is said."""
    if config.loading is not None:
        return config.loading
    return features.loading if config.model in (None, features.model) else DEFAULT
