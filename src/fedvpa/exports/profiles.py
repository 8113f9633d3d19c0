"""The preferences that an export is made for: their names, and the z that each stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedvpa.alignment.stage1 import ONE
from fedvpa.core.errors import ConfigError
from fedvpa.core.files import check_folder_name
from fedvpa.policy.policy import Policy
from fedvpa.policy.preference import Preference
from fedvpa.runs.chosen import chosen
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_user import NewUser
from fedvpa.runs.policies import Aligned


@dataclass(frozen=True)
class Profile:
    """A preference under a name.

    Attributes:
        name: What users of the export call it; a folder can have it for a name.
        policy: Which policy of the run follows it.
        z: The latent, k numbers; None where the policy itself stands for the preference.
    """

    name: str
    policy: str
    z: tuple[float, ...] | None


def named(preferences: Sequence[Preference] | Mapping[str, Preference]) -> dict[str, Preference]:
    """Preferences by name: as given, a file of pairs by its own name without its ending.

    Raises:
        ConfigError: If two have one name, or one has none.
        DataError: If no folder can have the name.
    """
    found: dict[str, Preference] = {}
    pairs = preferences.items() if isinstance(preferences, Mapping) else [(_name(one), one) for one in preferences]
    for name, one in pairs:
        if name in found:
            raise ConfigError(f"Two preferences have the name {name!r}.", fix="Name each once, or rename the file.")
        check_folder_name(name, "a preference")
        found[name] = one
    return found


def profiles_of(
    run: RunFolder, aligned: Aligned, preferences: Mapping[str, Preference], new: NewUser
) -> tuple[Profile, ...]:
    """The profiles of an export, in the order of their preferences.

    Args:
        run: The run.
        aligned: Its policies.
        preferences: From :func:`named`; none for a policy without z, whose one profile has the name ``policy``.
        new: How ``@pairs.jsonl`` is read.

    Raises:
        ConfigError: For a preference that is unknown, or missing, or that the policy cannot follow.
        DataError: If a file of pairs cannot be read.
    """
    names = {id(policy): name for name, policy in aligned.policies.items()}
    found = []
    wanted: Mapping[str, Preference | None] = preferences or {"policy": None}
    for name, preference in wanted.items():
        asked = str(preference) if isinstance(preference, int | float) else preference
        policy, z = chosen(run, aligned, asked, new)
        found.append(Profile(name, names[id(policy)], None if z is None else tuple(z)))
    return tuple(found)


def kind_of(policy: Policy) -> str | None:
    """How z enters a policy; None if it has none."""
    return None if policy.conditioner is None else policy.conditioner.kind


def only_policy(aligned: Aligned) -> Policy:
    """A policy of the run, of which all have one shape."""
    return aligned.policies[ONE] if ONE in aligned.policies else next(iter(aligned.policies.values()))


def _name(preference: Preference) -> str:
    if isinstance(preference, str) and preference.startswith("@"):
        return Path(preference[1:]).stem
    if isinstance(preference, str | int | float):
        return str(preference)
    raise ConfigError("A z has no name of its own.", fix='Give a name to it: preferences={"ana": z}.')
