"""The further tables that a comparison may be asked for, checked before anything loads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.options import option

if TYPE_CHECKING:
    from fedvpa.runs.config import RunConfig

FOUR_WAY = "four-way"

PROTOCOLS = (FOUR_WAY,)
"""Names of protocols beside the usual one."""


def check_views(
    config: RunConfig,
    stage: str,
    methods: Sequence[str],
    variants: str | os.PathLike[str] | None,
    shots: Sequence[int] | None,
    protocol: str | None,
) -> None:
    """Raise ConfigError for further tables that cannot be.

    Args:
        config: What all runs share.
        stage: Of the comparison.
        methods: Its methods.
        variants: The file of variants; None without any.
        shots: Numbers of pairs that unseen users give; None without such a table.
        protocol: Its name; None for the usual one.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise ConfigError(f"There is no protocol {protocol!r}.", fix=nearest(protocol, PROTOCOLS))
    for name, given in (("variants", variants), ("shots", shots), ("protocol", protocol)):
        if given is not None and stage != "selector":
            raise ConfigError(
                f"{option(name)} is for the selector stage, where users are scored on pairs.",
                fix=f"Leave it out, or give {option('stage', 'selector')}.",
            )
    if shots is None:
        return
    if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
        raise ConfigError(f"{option('shots')} is {list(shots)}.", fix="Give different numbers of pairs, 1 or more.")
    if not config.partition.unseen:
        raise ConfigError(
            f"{option('shots')} is about users whom training never sees, and there are none.",
            fix="Set some apart with partition.unseen.",
        )
    if "global" not in methods:
        raise ConfigError(
            f"{option('shots')} compares each method with 'global', which is not among the methods.",
            fix=f"Add global to {option('methods')}.",
        )
