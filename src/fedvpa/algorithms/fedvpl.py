"""FedVPL: variational preference learning, federated, as FedVPA-GP's paper defines its baseline.

VPL: Poddar, Wan, Ivison, Gupta, Jaques, "Personalizing Reinforcement Learning from Human Feedback with Variational
Preference Learning", NeurIPS 2024, arXiv 2408.10075. FedVPL (arXiv 2605.30873) is FedVPA-GP with the prior N(0, I) and
without L_ortho: amortised inference alone. Clients send changes of weights and losses, and nothing about their z.

Deviations: the same head, features and disjoint context and target as FedVPA-GP here, since otherwise a comparison
says nothing; a mean-pooled set encoder instead of VPL's self-attention; a constant KL weight instead of the cyclic one.
"""

from __future__ import annotations

from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fedvpa_gp import FedVPAGP


def fedvpl(config: MethodConfig) -> FedVPAGP:
    """FedVPA-GP with prior N(0, I), λ = 0 and no refinement; all else as configured."""
    switched = {"prior": "normal", "orthogonal_weight": 0.0, "refinement": "off"}
    variational = config.variational.model_copy(update=switched)
    return FedVPAGP(config.model_copy(update={"variational": variational}), name="fedvpl")
