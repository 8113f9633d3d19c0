"""``fedvpa profiles``: the users that a run serves, kept with the pairs that they labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option
from fedvpa.data.config import check_pairs_file
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.data.schema import PairTable
    from fedvpa.serving.profiles import Profiles

PROFILE = "profile:"
"""Stands before the name of a profile where a preference is asked for."""


def profiles(
    run: str | PathLike[str],
    *,
    store: str | PathLike[str] | None = None,
    pool: str | PathLike[str] | None = None,
    overrides: Sequence[str] = (),
) -> Profiles:
    """The profiles of the users that a run serves.

    It is used as ``with fedvpa.profiles(run) as kept: kept.create("ana", rows)``; see
    :class:`fedvpa.serving.profiles.Profiles` for what it does: ``create``, ``add``, ``get``, ``names``, ``delete``,
    ``export``, ``next`` (the pair that says most) and ``rewards``.

    Args:
        run: A run directory with a trained selector, or a release.
        store: The file of profiles; by default ``profiles/profiles.sqlite3`` in the run.
        pool: A table of pairs that users can be asked about; see :func:`fedvpa.serving.pool.open_pool`.
        overrides: Where the language model is now, such as ``features.model=PATH``.

    Raises:
        ConfigError: If the run's method serves every user alike.
        RunError: If the run holds no trained selector, or the file is none of profiles.
        ModelError: If the language model is not the one that the selector was trained on.
        StorageError: If the file cannot be written.
    """
    folder = RunFolder.open(run)
    if pool is not None:
        check_pairs_file(pool)
    from fedvpa.serving.profiles import Profiles

    return Profiles.open(
        folder, None if store is None else Path(store), overrides, pool=None if pool is None else Path(pool)
    )


def pairs_of_file(
    run: str | PathLike[str],
    file: str | PathLike[str],
    *,
    user: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> PairTable:
    """The labelled pairs of one user from a file, ties included, as ``Profiles.create`` and ``add`` take them.

    Args:
        run: The run directory, whose names of columns are used where the file has them.
        file: The file.
        user: The user whose pairs to use, where the file holds those of several.
        columns: Our name of a column → its name in this file; see :func:`fedvpa.personalize`.

    Raises:
        DataError: If the file cannot be read, or holds several users' pairs and ``user`` is none of them.
    """
    check_pairs_file(file)
    from fedvpa.runs.new_pairs import load_pairs, of_one_user

    table = load_pairs(RunFolder.open(run).config(), str(file), columns, ties=True)
    return of_one_user(table, user, str(file))


def z_of_profile(run: RunFolder, preference: str, overrides: Sequence[str]) -> list[float]:
    """The z of a preference ``profile:NAME``, from the profiles in the run.

    Raises:
        UnknownProfile: If there is none of that name.
        ConfigError: If the run has no profiles.
    """
    if not run.profiles.is_file():
        raise ConfigError(
            f"{run} keeps no profiles.",
            fix=f"Make one: fedvpa profiles {run} create {preference.removeprefix(PROFILE)} --pairs FILE.",
            where=option("preference"),
        )
    from fedvpa.serving.profiles import Profiles

    with Profiles.open(run, None, overrides) as kept:
        return list(kept.get(preference.removeprefix(PROFILE)).mean)
