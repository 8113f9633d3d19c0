r"""Source ``hh-rlhf``: Anthropic's helpful and harmless transcripts, from its folder layout or the hub.

Bai et al., "Training a Helpful and Harmless Assistant with Reinforcement Learning from Human Feedback",
https://arxiv.org/abs/2204.05862; https://github.com/anthropics/hh-rlhf. Left out: the ``red-team-attempts``, which
are no pairs.

Layout: ``<root>/<subset>/{train,test}.jsonl[.gz]``. Each row holds two whole transcripts, which are split at the last
``"\n\nAssistant:"``. The group of a pair is the objective that names its subset (``helpful-base`` → ``helpful``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from fedvpa.core.errors import DataError
from fedvpa.data.columns import ColumnMap
from fedvpa.data.files import JSON_LINES, read_rows
from fedvpa.data.rows import read_pairs
from fedvpa.data.schema import PairTable, Text
from fedvpa.data.shards import Shard, hub_shards, is_hub_id
from fedvpa.data.sources.base import PathKeys, Source, listed, require_path
from fedvpa.data.text import Parts, split_transcripts

EXAMPLE = "data.path=hh-rlhf"

FILE_SPLITS = ("train", "test")


class HhRlhfKeys(PathKeys):
    """Keys of the source ``hh-rlhf``.

    Attributes:
        subsets: The folders to read, as a list or as names between commas. Default: the two of FedVPA-GP's protocol
            (arXiv 2605.30873, experiments).
    """

    subsets: Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)] = (
        "helpful-base",
        "harmless-base",
    )


def read(config: HhRlhfKeys) -> PairTable:
    """Read the subsets in the given order.

    Args:
        config: The keys of this source.

    Returns:
        The pairs, with their objective as group, and the report of what was left out.

    Raises:
        ConfigError: If no path is set.
        DataError: If a folder or a file is missing, a Git LFS pointer or broken, or a transcript has no assistant.
    """
    path = require_path(config, EXAMPLE)
    shards_of = _hub if is_hub_id(path) else _local
    return read_pairs(
        [shard for subset in config.subsets for shard in shards_of(config, subset)],
        ColumnMap(),
        what=path,
        strict=config.strict,
        group=lambda shard: shard.name.split("/")[0].split("-")[0],
        split_prompt=_split_prompt,
    )


def _split_prompt(chosen: Text, rejected: Text, where: str) -> Parts | None:
    if isinstance(chosen, str) and isinstance(rejected, str):
        return split_transcripts(chosen, rejected, where)
    raise DataError(
        "an HH-RLHF transcript is a string, and this is a list of messages.", fix="Use data.source=table.", where=where
    )


def check(config: HhRlhfKeys) -> None:
    """Raise what :func:`read` would about folders and files that are not there."""
    if not is_hub_id(require_path(config, EXAMPLE)):
        for subset in config.subsets:
            _local(config, subset)


def _hub(config: HhRlhfKeys, subset: str) -> list[Shard]:
    return hub_shards(config.path, config.split, subset)


def _local(config: HhRlhfKeys, subset: str) -> list[Shard]:
    root, split = Path(config.path).expanduser(), config.split
    if not root.is_dir():
        raise DataError(
            "no such folder.", fix="Give the folder that holds the subsets (helpful-base, …).", where=str(root)
        )
    folder = root / subset
    if not folder.is_dir():
        there = ", ".join(sorted(child.name for child in root.iterdir() if child.is_dir())) or "none"
        raise DataError(
            f"has no subset folder {subset!r}. Folders: {there}.",
            fix="Choose with data.subsets=NAME,…",
            where=str(root),
        )
    wanted = (split,) if split else FILE_SPLITS
    names = {part: [f"{part}{suffix}" for suffix in JSON_LINES] for part in wanted}
    found = [(part, folder / name) for part in wanted for name in names[part] if (folder / name).is_file()]
    if not found:
        looked_for = ", ".join(name for part in wanted for name in names[part])
        raise DataError("holds no transcripts.", fix=f"Looked for {looked_for}.", where=str(folder))
    if len(found) > len({part for part, _ in found}):
        raise DataError(
            f"holds one split twice: {', '.join(file.name for _, file in found)}.",
            fix="Keep the plain or the gzip file.",
            where=str(folder),
        )
    return [Shard(f"{subset}/{part}", str(file), part, read_rows(file)) for part, file in found]


SOURCE = Source(HhRlhfKeys, read, check)
