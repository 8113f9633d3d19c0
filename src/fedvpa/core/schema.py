"""The schema version of every kind of file that fedvpa writes, in one place, and the one message about another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal, get_args

from fedvpa.core.errors import InputError, RunError

Kind = Literal[
    "run",
    "environment",
    "metrics",
    "comparison",
    "checkpoint",
    "users",
    "selector",
    "policy",
    "policy checkpoint",
    "policy metrics",
    "candidates",
    "features",
    "converted model",
    "judge",
    "simulation",
    "audit",
    "keys",
    "profiles",
    "forgotten",
]
"""What a file holds."""

VERSIONS: Mapping[Kind, int] = MappingProxyType(
    dict.fromkeys(get_args(Kind), 1) | {"run": 2, "checkpoint": 3, "policy": 3, "policy checkpoint": 4, "features": 2}
)
"""Kind → the version that this fedvpa writes and reads. One goes up when an older fedvpa would misread the file."""


def check_version(
    kind: Kind,
    found: object,
    *,
    where: str,
    fix: str,
    error: type[InputError] = RunError,
    earlier: Collection[int] = (),
) -> None:
    """Refuse a file of another schema version.

    Args:
        kind: What it holds.
        found: Its version, as a number or as text; None where it says none.
        where: The file.
        fix: What to do about it.
        error: What to raise.
        earlier: Versions that are read as well.

    Raises:
        InputError: If the version is not the one of this fedvpa.
    """
    if str(found) not in {str(version) for version in (VERSIONS[kind], *earlier)}:
        version = "unknown" if found is None else found
        raise error(f"has schema version {version}; this fedvpa reads {VERSIONS[kind]}.", fix=fix, where=where)
