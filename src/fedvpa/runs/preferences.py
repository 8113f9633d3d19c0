"""What a preference means to a run: a group, a user, a new user's pairs, or prototypes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.data.config import check_pairs_file
from fedvpa.policy.preference import GROUP, PROTOTYPE, USER, as_number, latent_of, mixture
from fedvpa.policy.preference import known as known_in_words
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.new_user import NewUser, infer_new_user
from fedvpa.runs.users import RunUsers


@dataclass(frozen=True)
class Known:
    """The preferences that a policy knows.

    Attributes:
        named: Group → its z.
        prototypes: By number.
    """

    named: Mapping[str, Sequence[float]]
    prototypes: Sequence[Sequence[float]] = ()


def z_of(
    folder: RunFolder, preference: str, known: Known, open_users: Callable[[], RunUsers], new: NewUser | None = None
) -> list[float]:
    """The z that a preference names. Errors as of :func:`generate`.

    Args:
        folder: The run.
        preference: A group, ``@pairs.jsonl``, a user, or a number.
        known: What the policy knows.
        open_users: Opens the run's users; not called for groups and pairs.
        new: How ``@pairs.jsonl`` is read.
    """
    if preference.startswith("@"):
        new = new or NewUser()
        check_pairs_file(preference[1:])
        found = infer_new_user(folder, folder.config(new.overrides), preference[1:], new).posterior.mean.tolist()
        return list(map(float, found))
    if preference in known.named:
        _say_same(preference, known)
        return list(known.named[preference])
    users = open_users()
    own = None if preference.startswith((GROUP, PROTOTYPE)) else users.z_of(preference)
    if own is None and preference.startswith(USER):
        own = users.z_of(preference.removeprefix(USER))
        if own is None:
            raise ConfigError(f"There is no user {preference.removeprefix(USER)!r}.", fix=choices(known, users))
    number = as_number(preference)
    if own is not None:
        if number is not None and known.prototypes:
            say(f"{preference!r} is a user; the prototype of this number is {PROTOTYPE}{preference}")
        return list(map(float, own))
    if number is None and not preference.startswith(GROUP):
        raise ConfigError(f"There is no preference and no user {preference!r}.", fix=choices(known, users, preference))
    try:
        z: list[float] = latent_of(preference, known.named, known.prototypes).tolist()
    except ConfigError as error:
        raise ConfigError(error.problem, fix=choices(known, users)) from None
    if number is not None:
        _say_mixture(preference, number, known)
    elif preference.startswith(GROUP):
        _say_same(preference.removeprefix(GROUP), known)
    return z


def _say_same(group: str, known: Known) -> None:
    """That other groups have the very same z: whoever asks for one of them gets the answers of all."""
    own = list(known.named[group])
    same = [name for name, z in known.named.items() if name != group and list(z) == own]
    if same:
        others = ", ".join(map(repr, same))
        say(f"preference {group!r} is the same z as {others}: the selector found no difference between these groups")


def _say_mixture(preference: str, number: float, known: Known) -> None:
    """What a number means: which prototypes, how much of each, and which groups lean to them."""
    parts = []
    for place, share in (mixture(number, len(known.prototypes)) or {}).items():
        near = [name for name, z in known.named.items() if list(z) == list(known.prototypes[place])]
        whose = f" ({', '.join(near)})" if near else ""
        parts.append(f"{'' if share == 1 else f'{share:.3g} of '}prototype {place}{whose}")
    if parts:
        say(f"preference {preference} is {' and '.join(parts)}")


def choices(known: Known, users: RunUsers, given: str | None = None) -> str:
    """What can be asked for, in words; what is near to ``given`` first."""
    ids = [*users.seen.ids, *users.unseen.ids]
    close = [] if given is None else difflib.get_close_matches(given, [*known.named, *ids], n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    shown = ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
    whom = f"users: {shown}" if ids else "the run holds no users, who are on other machines"
    words = known_in_words(known.named, known.prototypes)
    return f"{hint}{words[:1].upper()}{words[1:]}; {whom}; or @pairs.jsonl."
