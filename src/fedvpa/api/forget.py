"""``fedvpa forget``: one user out of a run directory, or out of the state of a node."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import user_path
from fedvpa.core.options import option
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedvpa.runs.forgetting import Removal

SHOWN = 10
"""How many users a message names at most. Chosen by us."""


@dataclass(frozen=True)
class ForgetResult:
    """What went of a user, or would go.

    Attributes:
        place: The run directory, or the folder of a node's state.
        user: Who is forgotten.
        dry_run: Whether nothing was changed.
        removed: File below ``place`` → what of the user went.
        kept: What cannot go, or lies elsewhere, in sentences.
        privacy: ``epsilon_released``, ``epsilon_server`` and ``delta`` of what the weights learned, of a run with
            noise; None without.
    """

    place: Path
    user: str
    dry_run: bool
    removed: Mapping[str, str]
    kept: tuple[str, ...]
    privacy: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "place": str(self.place),
            "user": self.user,
            "dry_run": self.dry_run,
            "removed": dict(self.removed),
            "kept": list(self.kept),
            "privacy": None if self.privacy is None else dict(self.privacy),
        }


def forget(
    run: str | PathLike[str] | None = None,
    *,
    user: str,
    state: str | PathLike[str] | None = None,
    dry_run: bool = False,
) -> ForgetResult:
    """Take all that a run directory keeps of one user out of it. What weights have learned cannot be taken out.

    The run serves the others as before: ``generate``, ``personalize`` and ``evaluate`` read none of the data that it
    was trained on. Its training cannot go on. A removal that is killed leaves each file as it was or as it will be, and
    the same call finishes it.

    Args:
        run: The run directory, of a simulation or of a deployment's server.
        user: The user's id, or the name of a profile; where clients were dealt, a client's id.
        state: In place of ``run``: the ``state-path`` of a node.
        dry_run: Say what would go, and change nothing.

    Raises:
        ConfigError: If not exactly one of ``run`` and ``state`` is given.
        RunError: If it is no run, or no folder; nothing there is of the user; or another program writes to it.
        StorageError: If a file cannot be written. What went before is gone, and the same call goes on.
    """
    if (run is None) == (state is None):
        raise ConfigError(
            f"{'Neither' if run is None else 'Both'} a run and the state of a node ({option('state')}) "
            f"{'is' if run is None else 'are'} given.",
            fix="Give one of them.",
        )
    if state is not None:
        return _forget_state(user_path(state), user, dry_run)
    assert run is not None
    folder = RunFolder.open(run)
    from fedvpa.runs.forgetting import Holdings

    with folder.locked():
        config = folder.config()
        holdings = Holdings(folder, config)
        served = _served(folder)
        _check_known(user, holdings.known | served.keys(), str(folder))
        trained = user in holdings.known  # else the run only serves the user
        removals = [*served.get(user, ()), *(holdings.removals(user) if trained else ())]
        if not dry_run:
            if trained:
                holdings.mark()
            for one in removals:
                one.carry_out()
    found = folder.metrics().get("privacy")
    spent = None if found is None else {key: found[key] for key in ("epsilon_released", "epsilon_server", "delta")}
    removed = dict[str, str]()
    for one in removals:
        removed[one.file] = f"{removed[one.file]}; {one.what}" if one.file in removed else one.what
    return ForgetResult(folder.path, user, dry_run, removed, tuple(_kept(folder, config, spent)), spent)


def _served(folder: RunFolder) -> dict[str, list[Removal]]:
    """User → what goes of a user whom the run serves: profile and keys (:func:`fedvpa.profiles`, ``fedvpa keys``)."""
    from fedvpa.runs.forgetting import Removal
    from fedvpa.serving.keys import Keys
    from fedvpa.serving.profile_store import ProfileStore

    def delete(name: str) -> None:
        with closing(ProfileStore(folder.profiles)) as store:
            store.delete(name)

    found = dict[str, list[Removal]]()
    profiles, keys = (path.relative_to(folder.path).as_posix() for path in (folder.profiles, folder.keys))
    if folder.profiles.is_file():
        with closing(ProfileStore(folder.profiles)) as store:
            names = store.names()
        for name in names:
            found[name] = [Removal(profiles, "the profile: pairs and posterior", partial(delete, name))]
    for key in Keys(folder.keys).all():
        if key.profile is not None:
            remove = partial(Keys(folder.keys).remove, key.name)
            found.setdefault(key.profile, []).append(Removal(keys, f"the key {key.name!r}", remove))
    return found


def _forget_state(folder: Path, user: str, dry_run: bool) -> ForgetResult:
    """Out of the private state that a node keeps of its users."""
    if not folder.is_dir():
        raise RunError("is no folder.", fix="Give the state-path of the node.", where=str(folder))
    from fedvpa.engines.forgetting import clients_in, cut_client

    known = {path: clients_in(path) for path in sorted(folder.glob("*.safetensors"))}
    _check_known(user, set[str]().union(*known.values()), str(folder))
    files = [path for path, names in known.items() if user in names]
    for path in [] if dry_run else files:
        cut_client(path, user)
    kept = "The user's pairs are in the node's data-path: delete their rows and start the node again, or it draws anew."
    return ForgetResult(folder, user, dry_run, {path.name: "private state" for path in files}, (kept,))


def _check_known(user: str, known: Collection[str], where: str) -> None:
    if user in known:
        return
    close = difflib.get_close_matches(user, known, n=3)
    some = sorted(known)[:SHOWN]
    more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
    near = (
        f"Did you mean {' or '.join(map(repr, close))}?" if close else f"It knows {', '.join(map(repr, some))}{more}."
    )
    raise RunError(f"holds nothing of a user {user!r}.", fix=near if known else "It names nobody.", where=where)


def _kept(run: RunFolder, config: RunConfig, spent: Mapping[str, float] | None) -> list[str]:
    """What stays, and why."""
    weights = "selector and policy" if run.policy.is_dir() else "selector"
    learned = f"What the weights of the {weights} learned stays: only training again without the user takes it out."
    if spent is not None:
        learned += (
            f" A training without the user would have given the same but for ε = {spent['epsilon_released']:.3g} at "
            f"δ = {spent['delta']:.2g} (ε = {spent['epsilon_server']:.3g} for whoever also sees who took part)."
        )
    found = [learned, "Means over all users stay in metrics.json."]
    if (run.path / "verdicts.jsonl").is_file():
        found.append("verdicts.jsonl stays: what a judge replied, under hashes of what it was asked.")
    if run.clients.is_dir() and config.data.source != "world":
        found.append(
            f"Outside the run: the user's rows of the data ({config.data.path or config.data.source}), and features in "
            "the cache (features.cache_dir)."
        )
    elif not run.clients.is_dir():
        found.append(
            "Outside the run: the user's pairs and state on the node (fedvpa forget --state PATH), and what Flower's "
            "database holds."
        )
    return found
