"""Source ``shp``: Stanford Human Preferences, which of two answers in a community of Reddit got more votes.

Ethayarajh et al., "Understanding dataset difficulty with V-usable information", https://arxiv.org/abs/2110.08420; hub
id ``stanfordnlp/SHP``. Licence: the posts are their authors', under Reddit's terms of use; see the card of the set.

- **A user** is a community (subreddit, 18 of them): votes are collective, and no person is named. **A group** is the
  same, so that ``oracle`` has one model of each community. ``partition.kind=dirichlet`` deals clients mixtures of
  communities.
- **Pairs**: the answer with the higher score beside the other one (column ``labels``).
- **Hold out by** ``split``: the set's own, in which no post is in two. Of a part of the set without splits, by
  ``prompt``.

Layout: ``<community>/{train,validation,test}.json``, or files with the columns ``domain``, ``history``,
``human_ref_A``, ``human_ref_B``, ``labels`` (1: A is preferred), ``score_ratio``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fedvpa.core.errors import DataError
from fedvpa.data.expand import Candidate, Layout, column, expand, number
from fedvpa.data.messages import Skip
from fedvpa.data.rows import NO_WINNER
from fedvpa.data.schema import PairTable
from fedvpa.data.shards import Shard, hub_shards, is_hub_id, local_shards
from fedvpa.data.sources.base import Source, listed
from fedvpa.data.sources.published import Place, PublishedKeys

PLACE = Place("stanfordnlp/SHP")
COLUMNS = ("domain", "history", "human_ref_A", "human_ref_B", "labels")
CLOSE = "the scores are closer than data.settings.least_ratio"


class ShpKeys(PublishedKeys):
    """Keys of the source ``shp``, set as ``data.settings.domains=askculinary,legaladvice``.

    Attributes:
        domains: The communities to read, as a list or between commas; empty for all.
        least_ratio: Pairs whose scores have a smaller ratio are left out. Default: 1, all of them; the authors advise 2
            for a cleaner label.
    """

    domains: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    least_ratio: float = Field(default=1.0, ge=1)


def read(config: ShpKeys) -> PairTable:
    """Read the communities.

    Args:
        config: The keys of this source.

    Returns:
        The pairs, with the community as user and as group, and the report of what was left out.

    Raises:
        DataError: If the files are missing, broken or in another layout.
    """
    layout = Layout("SHP", COLUMNS, partial(_pairs, config.least_ratio), splits=True)
    return expand(_shards(config), layout, what=PLACE.named(config), strict=config.strict, share=config.share)


def check(config: ShpKeys) -> None:
    """Raise what :func:`read` would about files that are not there."""
    if not is_hub_id(PLACE.named(config)):
        _shards(config)


def _shards(config: ShpKeys) -> list[Shard]:
    path = PLACE.named(config)
    if is_hub_id(path):
        if not config.domains:
            return hub_shards(path, config.split)
        return [shard for domain in config.domains for shard in hub_shards(path, config.split, domain)]
    root = Path(path).expanduser()
    folders = sorted(part for part in root.iterdir() if part.is_dir() and part.name[:1] != ".") if root.is_dir() else []
    if not folders:
        return local_shards(root, config.split)
    there = {folder.name: folder for folder in folders}
    for domain in config.domains:
        if domain not in there:
            raise DataError(
                f"has no folder {domain!r}. Folders: {', '.join(there)}.",
                fix="Choose with data.settings.domains=NAME,…",
                where=str(root),
            )
    return [
        replace(shard, name=f"{domain}/{shard.name or 'all'}")
        for domain in config.domains or there
        for shard in local_shards(there[domain], config.split)
    ]


def _pairs(least_ratio: float, row: Mapping[str, Any], where: str) -> Iterator[Candidate]:
    community = column(row, "domain", str, where).rsplit("_", 1)[0]
    label, ratio = row.get("labels"), number(row.get("score_ratio"))
    if label not in (0, 1) or isinstance(label, bool):
        yield Skip(NO_WINNER)
    elif least_ratio > 1 and (ratio is None or ratio < least_ratio):
        yield Skip(CLOSE)
    else:
        answers = [row.get("human_ref_A"), row.get("human_ref_B")]
        better, worse = answers if label else answers[::-1]
        texts = {"prompt": row.get("history"), "chosen": better, "rejected": worse}
        yield {**texts, "user_id": community, "group": community}


SOURCE = Source(ShpKeys, read, check, fills={"partition": {"kind": "natural"}})
