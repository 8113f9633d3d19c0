"""The places that pairs come from, one file each. A new source is a new file and a line here."""

from fedvpa.data.sources import hh_rlhf, table, world
from fedvpa.data.sources.base import Source

SOURCES: dict[str, Source] = {
    "world": world.SOURCE,
    "hh-rlhf": hh_rlhf.SOURCE,
    "table": table.SOURCE,
}
