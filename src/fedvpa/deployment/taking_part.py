"""What every server of a deployment says and writes about those who take part, whatever its method trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedvpa.algorithms.server.rejections import Rejections
from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.engines.flower.roster import Roster
from fedvpa.evaluation.accuracy_results import AccuracyComparison
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP
from fedvpa.runs.config import RunConfig


def say_who(roster: Roster) -> None:
    """Say how many take part, and how many do not."""
    say(f"{len(roster.client_ids)} clients on {len(roster.introductions)} nodes")
    if roster.left_out:
        say(f"{roster.left_out} further users are left out by their nodes: their pairs are too few to learn from")


def read_alike(config: RunConfig, reads: str) -> RunConfig:
    """The run as its nodes read their texts: where these are conversations, a string is one message from then on."""
    template = json.loads(reads).get("template", config.features.template)
    return config.model_copy(update={"features": config.features.model_copy(update={"template": template})})


def metrics(
    method: str, history: Sequence[Mapping[str, Any]], rejections: Rejections, roster: Roster
) -> dict[str, Any]:
    """What ``metrics.json`` of a deployment's server holds; its tables are empty, for the server has no test pairs."""
    nobody = AccuracyComparison(DEFAULT_BOOTSTRAP, rows=(), summary=(), controls=(), differences=())
    return {
        **nobody.to_dict(),
        "schema_version": VERSIONS["metrics"],
        "method": method,
        "seconds": sum(line["seconds"] for line in history),
        "rounds": len(history),
        "clients": len(roster.client_ids),
        "nodes": len(roster.introductions),
        "users_left_out": roster.left_out,
        "rejected_updates": rejections.rejected,
    }
