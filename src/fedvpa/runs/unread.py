"""Settings that the method of a run does not read, said before it trains."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fedvpa.core.progress import say
from fedvpa.runs.config import RunConfig

_SHAPE = ("head", "latent", "prototypes", "prototype_scale", "head_scale", "trunk_width", "base_dropout", "encoder")

UNREAD: Mapping[str, Mapping[str, frozenset[str] | None]] = MappingProxyType(
    {
        "fedeb": {
            "local": None,
            "variational": None,
            "selector": frozenset(_SHAPE),
        }
    }
)
"""Method → section → the keys that it does not read; None for all of them."""


def unread(config: RunConfig) -> list[str]:
    """The keys that were set to something else than their default, and that the method does not read."""
    found = []
    for name, keys in UNREAD.get(config.method, {}).items():
        section = getattr(config, name)
        standard = type(section)()
        found += [
            f"{name}.{key}"
            for key in sorted(section.model_fields_set)
            if (keys is None or key in keys) and getattr(section, key) != getattr(standard, key)
        ]
    return found


def say_unread(config: RunConfig) -> None:
    """Say on stderr which of the settings that were given have no effect."""
    if names := unread(config):
        say(f"method={config.method} does not read {', '.join(names)}; docs/architecture.md says which methods do")
