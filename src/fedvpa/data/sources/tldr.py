"""Source ``tldr``: labellers who compared two summaries of a post.

Stiennon et al., "Learning to summarize from human feedback", https://arxiv.org/abs/2009.01325; hub id
``openai/summarize_from_feedback``, configuration ``comparisons``. Licence: OpenAI's comparisons are under a modified
MIT licence; the Reddit posts come from Webis-TLDR-17 (CC BY 4.0), and CNN/Daily Mail articles keep their publishers'
rights.

- **A user** is a labeller (column ``worker``). **A group**: there is none.
- **Pairs**: the summary that the labeller chose beside the other one. There are no ties.
- **Hold out by** ``prompt``, the post, over all labellers: several judge the same posts. The set's own splits,
  ``train`` and ``validation``, are read together and prescribe nothing, since none of them tests; ``data.split``
  chooses one.

Layout: ``info`` (``post``, ``title``, ``subreddit``, or ``article``), ``summaries`` (two, with ``text``), ``choice``
(0 or 1) and ``worker``, one comparison a row. The prompt is written as the paper writes it (its appendix on training).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.data.expand import Candidate, Layout, column, expand, objects
from fedvpa.data.messages import Skip
from fedvpa.data.rows import NO_WINNER
from fedvpa.data.schema import PairTable
from fedvpa.data.sources.base import Source
from fedvpa.data.sources.published import Place, PublishedKeys

PLACE = Place("openai/summarize_from_feedback", "comparisons")
NO_TEXT = "neither a post nor an article is given"


def read(config: PublishedKeys) -> PairTable:
    """Read the comparisons.

    Args:
        config: The keys of this source.

    Returns:
        The pairs, with the labeller as user, and the report of what was left out.

    Raises:
        DataError: If the files are missing, broken or in another layout.
    """
    columns = ("info", "summaries", "choice", "worker")
    layout = Layout("summarize_from_feedback's comparisons", columns, _pairs, user="worker")
    return expand(PLACE.shards(config), layout, what=PLACE.named(config), strict=config.strict, share=config.share)


def _pairs(row: Mapping[str, Any], where: str) -> Iterator[Candidate]:
    summaries, choice = objects(row, "summaries", where), row.get("choice")
    if len(summaries) != 2:
        raise DataError(
            f"column 'summaries' holds {len(summaries)} summaries, and a comparison is of two.",
            fix="Give the configuration 'comparisons' of the set, not 'axis'.",
            where=where,
        )
    prompt = _prompt(column(row, "info", dict, where))
    if choice not in (0, 1) or isinstance(choice, bool):
        yield Skip(NO_WINNER)
    elif not prompt:
        yield Skip(NO_TEXT)
    else:
        better, worse = summaries[choice].get("text"), summaries[1 - choice].get("text")
        yield {"prompt": prompt, "chosen": better, "rejected": worse, "user_id": row.get("worker")}


def _prompt(info: Mapping[str, Any]) -> str:
    """The post or article, under its title; empty if there is neither."""
    post, article = (str(info.get(key) or "").strip() for key in ("post", "article"))
    if not (post or article):
        return ""
    title, subreddit = (str(info.get(key) or "").strip() for key in ("title", "subreddit"))
    parts = [
        f"SUBREDDIT: r/{subreddit}" if subreddit else "",
        f"TITLE: {title}" if title else "",
        f"POST: {post}" if post else f"ARTICLE: {article}",
        "TL;DR:",
    ]
    return "\n\n".join(part for part in parts if part)


SOURCE = Source(PublishedKeys, read, PLACE.check, fills={"partition": {"kind": "natural", "drop_small": True}})
