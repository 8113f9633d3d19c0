"""A new user's z, inferred from a file of labelled pairs and from what a run holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import PairTable
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_pairs import Columns, load_pairs, of_one_user, scaling_of
from fedvpa.runs.prepare import prepare_pairs
from fedvpa.runs.stage1 import open_selector
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector


@dataclass(frozen=True)
class NewUser:
    """How a file of pairs is read, and where things are.

    Attributes:
        user: Whose pairs, where the file holds those of several.
        columns: Our name of a column → its name in the file.
        overrides: Where the language model is now.
    """

    user: str | None = None
    columns: Columns | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True, repr=False)
class Inferred:
    """What a run says about a new user.

    Attributes:
        selector: The run's.
        table: The user's pairs.
        context: Their scaled features.
        posterior: Over the user's z.
    """

    selector: Selector
    table: PairTable
    context: Pairs
    posterior: Posterior

    __repr__ = short_repr


def infer_new_user(run: RunFolder, config: RunConfig, pairs: str | Path, new: NewUser) -> Inferred:
    """Infer the posterior of one user from a file of labelled pairs.

    Raises:
        DataError: If the file cannot be read, or holds several users' pairs and ``new.user`` is none of them.
        RunError: If the run holds no selector.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    selector = open_selector(run, config)
    table = of_one_user(load_pairs(config, pairs, new.columns), new.user, str(pairs))
    table, context = prepare_pairs(config.features, table, scaling_of(selector, run))
    return Inferred(selector, table, context, selector.infer(context))


def shares_of(selector: Selector, posterior: Posterior, context: Pairs, personal: bool) -> Float[Tensor, " m"]:
    """How a user lies among the prototypes: the posterior's own weights where it has a component for each.

    Args:
        selector: The run's.
        posterior: Of the user.
        context: The labelled pairs that it was inferred from.
        personal: Whether the method infers a z that can be compared with prototypes.
    """
    if len(posterior.weights) == 1 and personal:
        return selector.with_inference("responsibilities").infer(context).weights
    return posterior.weights
