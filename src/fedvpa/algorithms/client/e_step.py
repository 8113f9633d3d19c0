"""What both methods with prototypes compute on a client: evidence, and responsibilities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.config import MethodConfig
from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import Tree
from fedvpa.selector.heads import HEADS, Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.refinement import evidence, responsibilities


def e_step(
    head: Head, weights: Tree, pairs: Pairs, prototypes: Float[Tensor, "*#clients m k"], received: Tree
) -> tuple[Float[Tensor, "*clients m"], Float[Tensor, "*clients m"]]:
    """The evidence of the pairs at the prototypes, in nats, and the prototypes' responsibilities; without gradient.

    Args:
        head: The kind of head.
        weights: Its weights.
        pairs: Of the client.
        prototypes: p_1 … p_M.
        received: With ``log_prior`` [m] and ``gain``, the factor on evidence.
    """
    with torch.no_grad():
        known = evidence(head, weights, pairs, prototypes)
        return known, responsibilities(known, received["log_prior"], received["gain"].unsqueeze(-1))


def head_of(config: MethodConfig) -> Head:
    """The functions of the configured head.

    Raises:
        ConfigError: If Newton's method on z is asked for, and the head's margin is not linear in z.
    """
    head = HEADS[config.selector.head]
    if config.variational.refinement == "laplace" and head.linear is None:
        raise ConfigError(
            f"Laplace refinement needs a head whose margin is linear in z; {config.selector.head!r} is not.",
            fix="Use selector.head=bilinear or mlp, or variational.refinement=responsibilities.",
        )
    return head
