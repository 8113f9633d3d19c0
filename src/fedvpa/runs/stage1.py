"""The first stage of a run directory, opened for stage 2 and for serving: from what the run holds, without its data.

Only what reads users' texts needs the data that the run was trained on: stage 2 where no public prompts are given, and
FedDPO.
"""

from __future__ import annotations

import shlex

from fedvpa.algorithms.base import placed_by_group
from fedvpa.algorithms.registry import make
from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.errors import InputError, RunError
from fedvpa.core.progress import say
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.data.schema import PairTable
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.held import HeldPairs
from fedvpa.runs.identity import data_fingerprint
from fedvpa.runs.prepare import check_features, prepare
from fedvpa.runs.tastes import known_tastes
from fedvpa.runs.users import RunUsers, infer_users, load_users, nobody
from fedvpa.selector.selector import Selector

PUBLIC_PROMPTS = "or give public prompts, one a line: policy.candidates.prompt_file=FILE."
"""The way on that needs no user's text."""


def open_selector(run: RunFolder, config: RunConfig) -> Selector:
    """The trained selector of a run.

    Raises:
        RunError: If it holds none.
        ModelError: If the language model is not the one that it was trained on.
    """
    selector = trained_selector(run)
    check_features(config.features, selector)
    return selector


def trained_selector(run: RunFolder) -> Selector:
    """The trained selector of a run, whether or not its language model is here.

    Raises:
        RunError: If it holds none.
    """
    if not (run.selector / "config.json").is_file():
        command = shlex.join(["fedvpa", "train", "--resume", str(run)])
        raise RunError("holds no trained selector.", fix=f"Finish its training: {command}", where=str(run))
    return Selector.from_pretrained(run.selector)


def open_stage1(run: RunFolder, config: RunConfig) -> Stage1:
    """Selector and users; the text that they hold is read when it is asked for.

    Args:
        run: The run directory.
        config: Of the run; says where its data and language model are now.

    Raises:
        RunError: If it holds no trained selector.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    selector = open_selector(run, config)
    users = open_users(run, config, selector)
    prompted = config.policy.candidates.source != "pairs"
    return Stage1(
        method=config.method,
        algorithm=make(config.method, config.method_config),
        selector=selector,
        seen=users.seen,
        unseen=users.unseen,
        open_pairs=lambda: open_pairs(run, config, otherwise=PUBLIC_PROMPTS if prompted else ""),
        has_text=_has_text(config),
        holds_out=users.holds_out,
        data=users.data,
        features=config.features,
        policy=config.policy,
        seed=config.seed,
        world=config.data.source == "world",
        strict=config.data.strict,
        open_tastes=lambda: known_tastes(config, users.seen.ids),
        private=config.privacy.on,
    )


def open_pairs(run: RunFolder, config: RunConfig, otherwise: str = "") -> ClientPairs:
    """The text that the clients of a run hold.

    Args:
        run: The run directory.
        config: Of the run.
        otherwise: What else the user can do where the data are gone.

    Raises:
        RunError: If the data are not there any more, or not those that the run was trained on, or users were forgotten.
    """
    fix = f"Train another run on data without the rows of those users; {otherwise}" if otherwise else ""
    run.check_whole("it cannot say which rows of its data its users hold", fix)
    table = _load(run, config, otherwise)
    if not run.users.is_file():
        return ClientPairs(table, partition(table, config.partition, config.seed))
    users = load_users(run.users)
    _check_data(run, users, table)
    return ClientPairs(table, users.partition)


def open_users(run: RunFolder, config: RunConfig, selector: Selector) -> RunUsers:
    """The users of a run, and nobody where they are on other machines.

    Those of a run of an earlier release, which kept none, are inferred again, from the data of the run.

    Raises:
        RunError: If that is needed, and the data are not there any more.
    """
    if run.users.is_file():
        return load_users(run.users)
    if not run.clients.is_dir():
        return nobody(config.partition, config.seed)
    say(f"{run} was written by an earlier release and keeps no users: they are inferred again from its data")
    check_data_path(run, config, "")
    prepared = prepare(config)
    federation, by_group = prepared.federation, placed_by_group(make(config.method, config.method_config))
    seen, unseen = (
        infer_users(selector, federation, clients, by_group=by_group)
        for clients in (federation.partition.seen, federation.partition.unseen)
    )
    held = HeldPairs.of(prepared.pairs)
    return RunUsers(seen, unseen, federation.partition, prepared.fingerprint(), held)


def open_held(run: RunFolder, config: RunConfig, users: RunUsers) -> HeldPairs | None:
    """The pairs of a run's data; None, and a line on stderr that says so, where neither run nor data can tell."""
    if users.held is not None:
        return users.held
    if not users.elsewhere:
        try:
            return HeldPairs.of(open_pairs(run, config))
        except RunError as error:
            reason = f"it was written by an earlier release, and its data cannot be used ({error.problem})"
    else:
        reason = "its users are on other machines"
    say(f"{run} cannot say which pairs it was trained on: {reason}. Give pairs that no training has seen.")
    return None


def check_data_path(run: RunFolder, config: RunConfig, otherwise: str) -> None:
    """Raise RunError if the data of a run are not where its configuration says; see :func:`open_pairs`."""
    try:
        config.data.check_paths()
    except InputError as error:
        if run.clients.is_dir():
            problem = f"was trained on data that are not there any more ({error})"
            restore = "Say where they are now: data.path=PATH"
        else:
            problem = "holds no user's texts: its users' pairs are on other machines"
            restore = "Give pairs of your own: data.path=PATH"
        fix = f"{restore}; {otherwise}" if otherwise else f"{restore}."
        raise RunError(f"{problem}, and this step reads them.", fix=fix, where=str(run)) from error


def _has_text(config: RunConfig) -> bool:
    try:
        config.data.check_paths()
    except InputError:
        return False
    return True


def _load(run: RunFolder, config: RunConfig, otherwise: str) -> PairTable:
    check_data_path(run, config, otherwise)
    return load(config.resolved_data())


def _check_data(run: RunFolder, users: RunUsers, table: PairTable) -> None:
    if data_fingerprint(table, users.partition) != users.data:
        raise RunError(
            "was trained on other pairs than its data now give.",
            fix="Restore the data: data.path=PATH.",
            where=str(run),
        )
