"""The sources by name. A new one is a new file and a line here, or a package of its own: see ``docs/plugins.md``."""

from __future__ import annotations

from fedvpa.core.registry import Registry
from fedvpa.data.sources.base import Source

SOURCES: Registry[Source] = Registry(
    "source",
    {
        "world": "fedvpa.data.sources.world:SOURCE",
        "hh-rlhf": "fedvpa.data.sources.hh_rlhf:SOURCE",
        "table": "fedvpa.data.sources.table:SOURCE",
    },
    fits=lambda entry: isinstance(entry, Source),
    shape="a fedvpa.data.sources.base.Source",
)
