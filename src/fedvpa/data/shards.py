"""Shards: the files of a local folder or the splits of a hub data set, as streams of numbered rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.data.files import JSON, SUFFIXES, Row, is_of_type, read_rows

SPLITS = ("train", "validation", "test")
"""The names that a split may have in the data, and the parts that a client's pairs are split into."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Shard:
    """One stream of rows.

    Attributes:
        name: A name that is unique within its data set; empty where there is only one shard.
        where: The file, or the hub id and split, that rows are reported under.
        split: The split that the shard's name says; None if it says none.
        rows: The numbered rows, to be read once.
    """

    name: str
    where: str
    split: str | None
    rows: Iterator[Row]


def is_hub_id(path: str) -> bool:
    """Whether ``path`` looks like ``owner/name`` and is neither a local file or folder nor named like a data file."""
    return bool(_HUB_ID.fullmatch(path)) and not Path(path).exists() and not is_of_type(path)


def split_of(name: str) -> str | None:
    """The split that a file or a hub split is named after (``train``, ``test_prefs``, ``validation-00000``)."""
    return next((split for split in SPLITS if re.match(rf"{split}(?![a-z])", name)), None)


PARQUET_COPY = "refs/convert/parquet"
"""The branch on which the hub keeps a copy in Parquet of a data set that is a script."""


def hub_shards(name: str, split: str = "", data_dir: str | None = None, subset: str | None = None) -> list[Shard]:
    """The splits of a data set that ``datasets.load_dataset`` knows by ``name``.

    Args:
        name: The hub id.
        split: The only split to read; empty for all.
        data_dir: A folder inside the data set.
        subset: The configuration of the data set, where it has several.

    Returns:
        One shard per split.

    Raises:
        DataError: If the data set cannot be loaded, or has no such split.
    """
    import datasets  # deferred: takes a second, and local files do without

    try:
        loaded = _loaded(name, data_dir, subset)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"is neither a local file or folder, nor a data set that the hub gives: {reason}.",
            fix="Check the path; a hub id needs a connection, or a cache filled beforehand.",
            where=name,
        ) from error
    inside = "/".join(part for part in (name, subset, data_dir) if part)
    chosen = [split] if split else list(loaded)
    if not set(chosen) <= set(loaded):
        raise DataError(f"has no split {split!r}.", fix=f"Splits: {', '.join(loaded)}.", where=inside)
    prefix = f"{data_dir}/" if data_dir else ""
    return [
        Shard(f"{prefix}{part}", f"{inside}[{part}]", split_of(part), enumerate(loaded[part], start=1))
        for part in chosen
    ]


def _loaded(name: str, data_dir: str | None, subset: str | None) -> Any:
    """The splits by name; of a set that is a script, which ``datasets`` does not run, those of its copy in Parquet."""
    import datasets

    given = {key: value for key, value in (("name", subset), ("data_dir", data_dir)) if value}
    try:
        return datasets.load_dataset(name, **given)
    except RuntimeError as error:
        if "script" not in str(error):
            raise
    return datasets.load_dataset(name, data_dir=subset or data_dir, revision=PARQUET_COPY)


def local_shards(path: Path, split: str = "") -> list[Shard]:
    """One file, or the data files of a folder in the order of their names.

    Args:
        path: The file or the folder.
        split: The only split to read, by the files' names; empty for all.

    Returns:
        One shard per file.

    Raises:
        DataError: If there is no such file, no data file in the folder, or no file of that split.
    """
    if not path.exists():
        raise DataError(
            "no such file or folder.", fix="Check the path; a hub id is written owner/name.", where=str(path)
        )
    files = _data_files(path) if path.is_dir() else [path]
    wanted = [file for file in files if not split or split_of(file.name) == split]
    if not wanted:
        what = f"data file of split {split!r}" if split else "data file"
        raise DataError(
            f"holds no {what}.",
            fix=f"Looked for {', '.join(f'{split}*{suffix}' for suffix in SUFFIXES)}.",
            where=str(path),
        )
    alone = len(wanted) == 1
    return [Shard("" if alone else file.name, str(file), split_of(file.name), read_rows(file)) for file in wanted]


def _data_files(folder: Path) -> list[Path]:
    """The data files of a folder. JSON files count only where there are no others: they often say things about them.

    Raises:
        DataError: If there are two files that differ in nothing but their type: one set of pairs twice.
    """
    there = sorted(file for file in folder.iterdir() if is_of_type(file.name) and not file.name.startswith("."))
    files = [file for file in there if not is_of_type(file.name, JSON)] or there
    first: dict[str, Path] = {}
    for file in files:
        stem = file.name.lower().removesuffix(".gz").rpartition(".")[0]
        other = first.setdefault(stem, file)
        if other is not file:
            raise DataError(
                f"holds {stem!r} twice: {other.name} and {file.name}.",
                fix="Keep one of them, or name the file.",
                where=str(folder),
            )
    return files
