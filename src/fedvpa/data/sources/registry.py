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
        "prism": "fedvpa.data.sources.prism:SOURCE",
        "personal-llm": "fedvpa.data.sources.personal_llm:SOURCE",
        "ultrafeedback": "fedvpa.data.sources.ultrafeedback:SOURCE",
        "uf-p-2": "fedvpa.data.sources.ultrafeedback:TWO",
        "uf-p-4": "fedvpa.data.sources.ultrafeedback:FOUR",
        "tldr": "fedvpa.data.sources.tldr:SOURCE",
        "shp": "fedvpa.data.sources.shp:SOURCE",
    },
    fits=lambda entry: isinstance(entry, Source),
    shape="a fedvpa.data.sources.base.Source",
)
