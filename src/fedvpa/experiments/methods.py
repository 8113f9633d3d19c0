"""The methods that a comparison can have, by stage; names alone, so that a wrong one is found before anything loads."""

from __future__ import annotations

from typing import Literal

Stage = Literal["selector", "policy"]
"""What is compared: selectors, by accuracy, or policies as well, by win rate."""

STAGES: tuple[Stage, ...] = ("selector", "policy")

OURS = "fedeb"
"""The method whose switching is shown."""

OWN_WINS = "own_wins"
"""The row that counts a user's own wins for each response and reads no text: no method, and nothing trains."""

DEFAULT_METHODS = (OURS, "fedvpa_gp", "fedvpl", "lore", "finetune", "global", "local", "informed", "oracle")
"""The selectors of a comparison, unless others are asked for."""

DEFAULT_POLICY_METHODS = (OURS, "fedvpa_gp", "fedvpl", "global", "fedbiscuit", "feddpo", "oracle")
"""The policies of a comparison, in the order of the paper's table, with ours first and the yardstick last."""

EXACT_LABELS = "exact_labels"
"""The yardstick of a policy for each true group whose pairs are ordered by the exact judge: no selector is read."""

SEVERAL_OBJECTIVES = ("firm", "mgda", "scalar", "single", "soups", "fedcmoo")
"""The methods that train towards several rewards, under ``firm``."""

POLICY_METHODS = (*DEFAULT_POLICY_METHODS, EXACT_LABELS, "fedbiscuit_lora", *SEVERAL_OBJECTIVES)
"""All methods that give a policy; the last ones are in no comparison unless they are asked for."""


def selector_of(method: str) -> str:
    """The method of the first stage that a policy's method starts from.

    Methods whose clients train policies need no selector, only the pairs of a run: that of ``global``. Exact labels
    need the groups of the oracle.
    """
    from fedvpa.algorithms.registry import METHODS

    if method == EXACT_LABELS:
        return "oracle"
    return method if method in METHODS else "global"


def policy_methods() -> list[str]:
    """The methods that give a policy, those of other packages included."""
    from fedvpa.algorithms import registry

    added = {*registry.METHODS.names(), *registry.POLICY_METHODS.names()}
    return sorted({*POLICY_METHODS, *added} - registry.OWN_HEADS)
