"""Which policy of a run answers under a preference, and the z that it follows."""

from __future__ import annotations

from fedvpa.alignment.stage1 import ONE
from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option
from fedvpa.policy.policy import Policy
from fedvpa.policy.preference import Preference, latent_of
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_user import NewUser
from fedvpa.runs.policies import Aligned
from fedvpa.runs.preferences import Known, choices, z_of
from fedvpa.runs.stage1 import open_selector, open_users
from fedvpa.runs.users import RunUsers


def chosen(
    folder: RunFolder, aligned: Aligned, preference: Preference | None, new: NewUser
) -> tuple[Policy, list[float] | None]:
    """The policy to ask, and its z; None for a policy without z.

    Args:
        folder: The run.
        aligned: Its policies.
        preference: As of :func:`fedvpa.generate`.
        new: How ``@pairs.jsonl`` is read.

    Raises:
        ConfigError: For an unknown preference or user (the known ones are listed), or one that no policy of the run
            follows.
        DataError: If a file of pairs cannot be read.
    """
    policies = aligned.policies
    if aligned.by_group:
        if not isinstance(preference, str) or preference not in policies:
            raise ConfigError(
                f"The oracle has one policy for each of {', '.join(policies)}, and no preference {preference!r}.",
                fix="Name one of them.",
            )
        return policies[preference], None
    policy = policies[ONE]
    if policy.conditioner is None:
        if preference is not None:
            raise ConfigError(
                f"The policy of {aligned.method!r} is the same for everybody and cannot follow {preference!r}.",
                fix=f"Leave {option('preference')} out, or align a run of fedeb.",
            )
        return policy, None
    if preference is not None and not isinstance(preference, str):
        return policy, latent_of(preference, policy.preferences, policy.prototypes).tolist()
    known = Known(policy.preferences, policy.prototypes)

    def users() -> RunUsers:
        config = folder.config(new.overrides)
        return open_users(folder, config, open_selector(folder, config))

    if preference is None:
        raise ConfigError("This policy follows a preference, and none is given.", fix=choices(known, users()))
    return policy, z_of(folder, preference, known, users, new)
