"""The first stage of a run directory, opened for stage 2 and for serving: no features are extracted again."""

from __future__ import annotations

import shlex

from fedvpa.algorithms.registry import make
from fedvpa.alignment.stage1 import Stage1
from fedvpa.core.errors import RunError
from fedvpa.core.progress import say
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.load import load
from fedvpa.data.schema import PairTable
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.identity import data_fingerprint
from fedvpa.runs.prepare import Prepared, check_features, prepare
from fedvpa.runs.users import RunUsers, infer_users, load_users
from fedvpa.selector.selector import Selector


def open_selector(run: RunFolder, config: RunConfig) -> Selector:
    """The trained selector of a run.

    Raises:
        RunError: If it holds none.
        ModelError: If the language model is not the one that it was trained on.
    """
    if not (run.selector / "config.json").is_file():
        command = shlex.join(["fedvpa", "train", "--resume", str(run)])
        raise RunError("holds no trained selector.", fix=f"Finish its training: {command}", where=str(run))
    selector = Selector.from_pretrained(run.selector)
    check_features(config.features, selector)
    return selector


def open_stage1(run: RunFolder, config: RunConfig) -> Stage1:
    """Selector, users and the text that they hold.

    Args:
        run: The run directory.
        config: Of the run; says where its data and language model are now.

    Raises:
        RunError: If it holds no trained selector, or its data are not those that it was trained on.
        ModelError: If the language model is not the one that the selector was trained on.
    """
    selector = open_selector(run, config)
    users = open_users(run, config, selector)
    return Stage1(
        method=config.method,
        algorithm=make(config.method, config.method_config),
        selector=selector,
        seen=users.seen,
        unseen=users.unseen,
        pairs=open_pairs(run, config, users),
        features=config.features,
        policy=config.policy,
        seed=config.seed,
        world=config.data.source == "world",
    )


def open_pairs(run: RunFolder, config: RunConfig, users: RunUsers | None = None) -> ClientPairs:
    """The text that the clients of a run hold.

    Raises:
        RunError: If the data are not those that the run was trained on.
    """
    if users is None and not run.users.is_file():
        return prepare(config).pairs
    users = users or load_users(run.users)
    table = load(config.resolved_data())
    _check_data(run, users, table)
    return ClientPairs(table, users.partition)


def open_users(run: RunFolder, config: RunConfig, selector: Selector, prepared: Prepared | None = None) -> RunUsers:
    """The users of a run; those of a run of an earlier release, which kept none, are inferred again.

    Args:
        run: The run directory.
        config: Of the run.
        selector: Its selector.
        prepared: Its clients with features, if they are there already.

    Raises:
        RunError: If the data are not those that the run was trained on.
    """
    if run.users.is_file():
        users = load_users(run.users)
        if prepared is not None:
            _check_data(run, users, prepared.table)
        return users
    say(f"{run} was written by an earlier release and keeps no users: they are inferred again from its data")
    prepared = prepared or prepare(config)
    federation, by_group = prepared.federation, make(config.method, config.method_config).reads_groups
    seen, unseen = (
        infer_users(selector, federation, clients, by_group=by_group)
        for clients in (federation.partition.seen, federation.partition.unseen)
    )
    return RunUsers(seen, unseen, federation.partition, prepared.fingerprint())


def _check_data(run: RunFolder, users: RunUsers, table: PairTable) -> None:
    if data_fingerprint(table, users.partition) != users.data:
        raise RunError(
            "was trained on other pairs than its data now give.",
            fix="Restore the data: data.path=PATH.",
            where=str(run),
        )
