"""The components of FedVPA-GP's mixture prior (E6) from additive moments, so that no posterior is kept or passed on.

Published, the components are the posteriors of the last cohort, one for each client. Here they are M Gaussians. Client
i, whose posterior is N(μ_i, σ_i²) and whose responsibilities are r_im, adds

    r_im        r_im μ_i        r_im (σ_i² + μ_i²)

to the sums of its cohort, and the server's M-step gives component m the mean and the variance (in each dimension) of
the users that belong to it, their own uncertainty included. Sums of cohorts add up, so nothing else is needed.

The server learns no more than the sum if it sees no more: with secure aggregation, or with noise. A server that sees
the sums of one client alone can compute its posterior.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server.validation import Bounds
from fedvpa.core import tree
from fedvpa.core.tree import Tree, below

STANDARD_WEIGHT = 1e-4
"""Weight of one standard normal user in each component, beside a weight of 1 for all users: a component that nobody
belongs to is N(0, I). Chosen by us: too small to matter elsewhere."""


LONGEST_MEAN = 2.0
"""The longest μ that differential privacy lets count in full, and its square the longest σ² + μ². Chosen by us: twice
the norm of a prototype, towards which posteriors are pulled."""


def moment_bounds(prototypes: int, latent: int) -> dict[str, Bounds]:
    """The bounds of :func:`moment_statistics`."""
    return {
        "moment.first": Bounds((prototypes, latent), -1e3, 1e3, longest=LONGEST_MEAN),
        "moment.second": Bounds((prototypes, latent), 0.0, 1e6, longest=LONGEST_MEAN**2),
    }


def moment_statistics(
    responsibility: Float[Tensor, "*clients m"],
    mean: Float[Tensor, "*clients k"],
    log_var: Float[Tensor, "*clients k"],
) -> Tree:
    """What clients add to the sums, beside their responsibilities.

    Args:
        responsibility: r_im; 0 for a client without pairs.
        mean: μ_i, the mean of the client's posterior.
        log_var: log σ_i².
    """
    share = responsibility.unsqueeze(-1)
    second = log_var.exp() + mean.square()
    return {"moment.first": share * mean.unsqueeze(-2), "moment.second": share * second.unsqueeze(-2)}


def follow_moments(known: Tree, update: CohortUpdate, rate: float) -> Tree:
    """The running means per client of ``share`` [m], ``first`` and ``second`` [m, k]; the first cohort's, at first.

    Args:
        known: What it was; empty before the first.
        update: A cohort's sums, with those of :func:`moment_statistics`.
        rate: Weight of the cohort.
    """
    if not update.sums or not update.sums["clients"] > 0:
        return known
    sums = {"share": update.sums["responsibility"]} | below("moment", update.sums)
    found = {name: leaf / update.sums["clients"] for name, leaf in sums.items()}
    return tree.combine(lambda old, new: torch.lerp(old, new, rate), known, found) if known else found


def m_step(moments: Tree) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k"]]:
    """Means and log-variances of the components, from running means: the M-step."""
    weight = moments["share"].unsqueeze(-1) + STANDARD_WEIGHT
    mean = moments["first"] / weight
    variance = (moments["second"] + STANDARD_WEIGHT) / weight - mean.square()
    return mean, variance.clamp(min=STANDARD_WEIGHT).log()
