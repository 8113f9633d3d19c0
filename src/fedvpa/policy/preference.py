"""What a preference names: a z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import ConfigError

Preference = str | float | Sequence[float] | Tensor
"""The name of a group, a place from 0 to 1 between two groups (also as text), or z itself."""


def latent_of(preference: Preference, named: Mapping[str, Sequence[float]]) -> Float[Tensor, " k"]:
    """The z that a preference names.

    Args:
        preference: What to follow.
        named: Group → the z that stands for it, in the order of the groups.

    Raises:
        ConfigError: If there is no such group, or a number is no place between two groups.
    """
    if isinstance(preference, str) and preference in named:
        return torch.tensor(named[preference])
    share = as_number(preference)
    if share is not None:
        if len(named) != 2 or not 0 <= share <= 1:
            raise ConfigError(
                f"The preference {preference} is no place between two groups.",
                fix=f"Give a number from 0 to 1 where a policy has two groups; it has {', '.join(named) or 'none'}.",
            )
        first, second = (torch.tensor(z) for z in named.values())
        return (1 - share) * first + share * second
    if isinstance(preference, str):
        raise ConfigError(
            f"There is no preference {preference!r}.", fix=f"The policy knows: {', '.join(named) or 'none by name'}."
        )
    return torch.as_tensor(preference, dtype=torch.float32)


def as_number(preference: Preference) -> float | None:
    """The number that a preference is, or says in words; None if it is none."""
    if not isinstance(preference, str | int | float):
        return None
    try:
        return float(preference)
    except ValueError:
        return None
