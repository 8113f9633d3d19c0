"""The methods by name: those that train a selector, and those whose clients train the policy.

A new one is a new file and a line here, or a package of its own: see ``docs/plugins.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fedvpa.algorithms.config import MethodConfig
from fedvpa.core.registry import Registry

if TYPE_CHECKING:
    from fedvpa.algorithms.base import SelectorAlgorithm
    from fedvpa.algorithms.policy_method import PolicyMethod

METHODS: Registry[Callable[[MethodConfig], SelectorAlgorithm[Any]]] = Registry(
    "method",
    {
        "fedbiscuit": "fedvpa.algorithms.fedbiscuit:FedBiscuit",
        "fedeb": "fedvpa.algorithms.fedeb:FedEB",
        "fedem": "fedvpa.algorithms.fedem:FedEM",
        "fedgd": "fedvpa.algorithms.fedgd:FedGD",
        "fedvpa_gp": "fedvpa.algorithms.fedvpa_gp:FedVPAGP",
        "fedvpl": "fedvpa.algorithms.fedvpl:fedvpl",
        "finetune": "fedvpa.algorithms.finetune:FineTune",
        "global": "fedvpa.algorithms.global_model:global_model",
        "informed": "fedvpa.algorithms.informed:Informed",
        "local": "fedvpa.algorithms.local_only:LocalOnly",
        "lore": "fedvpa.algorithms.lore:Lore",
        "oracle": "fedvpa.algorithms.oracle:oracle",
        "vpl": "fedvpa.algorithms.vpl:VPL",
    },
    shape="a callable that makes a SelectorAlgorithm of a MethodConfig",
)
"""Name → what makes the method of its hyper-parameters."""

OWN_HEADS = frozenset({"finetune", "informed", "local"})
"""The methods whose z is a whole head, so that there is no one selector to train a policy by."""


def _is_policy_method(entry: Any) -> bool:
    from fedvpa.algorithms.policy_method import PolicyMethod

    return isinstance(entry, PolicyMethod)


POLICY_METHODS: Registry[PolicyMethod] = Registry(
    "policy_method",
    {
        "fedcmoo": "fedvpa.algorithms.firm_method:FEDCMOO",
        "feddpo": "fedvpa.algorithms.feddpo:METHOD",
        "firm": "fedvpa.algorithms.firm_method:FIRM",
        "mgda": "fedvpa.algorithms.firm_method:MGDA",
        "scalar": "fedvpa.algorithms.firm_method:SCALAR",
        "single": "fedvpa.algorithms.firm_method:SINGLE",
        "soups": "fedvpa.algorithms.firm_method:SOUPS",
    },
    fits=_is_policy_method,
    shape="a PolicyMethod (fedvpa.algorithms.policy_method)",
)
"""Name → a method whose clients train the policy, without a selector of their own."""


def make(name: str, config: MethodConfig) -> SelectorAlgorithm[Any]:
    """The method called ``name``.

    Raises:
        ConfigError: If there is none, or it has something against ``config``.
    """
    return METHODS.get(name)(config)
