"""Runs of earlier releases under today's names, and settings that mean something else than they did."""

from __future__ import annotations

from functools import cache

from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.runs.config import RunConfig

RUN_VERSIONS = ("1", str(VERSIONS["run"]))
"""The schema versions of a run directory that are read. In 1, what is ``fedem`` now was called ``fedvpa_gp``."""


def as_today(config: RunConfig, version: str, where: str) -> RunConfig:
    """The configuration of a run under today's names; says so on stderr, once, if it is not as the file has it.

    Args:
        config: As the run's ``config.yaml`` has it.
        version: The schema version of that file.
        where: The run directory.
    """
    if version != RUN_VERSIONS[0]:
        return config
    if "rotation" not in config.selector.model_fields_set:  # no release of that version had one
        selector = config.selector.model_copy(update={"rotation": "none"})
        config = config.model_copy(update={"selector": selector})
    if not _is_em(config):
        return config
    _say_once(
        f"{where} was written by an earlier release: its method fedvpa_gp with variational.refinement="
        f"{config.variational.refinement} is called fedem now, and it is opened as that"
    )
    return config.model_copy(update={"method": "fedem"})


def warn_of_new_meaning(config: RunConfig) -> None:
    """Say on stderr that ``refinement`` of ``fedvpa_gp`` means something new, if it was set by hand."""
    if _is_em(config) and "refinement" in config.variational.model_fields_set:
        _say_once(
            f"method=fedvpa_gp with variational.refinement={config.variational.refinement}: the head learns from "
            "samples of the amortised posterior, which enters z beside prior and likelihood; what releases up to 0.3 "
            "trained under this name is method=fedem"
        )


def _is_em(config: RunConfig) -> bool:
    return config.method == "fedvpa_gp" and config.variational.refinement != "off"


@cache
def _say_once(line: str) -> None:
    say(line)
