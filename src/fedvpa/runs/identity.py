"""What a run is made of: the parts by which its checkpoints, and the cells of comparisons, are known again.

See :mod:`fedvpa.core.identity` for the rule. A configuration names files and folders; here their content takes the
place of their names, so that a moved file changes nothing and an edited one is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.core.config import UNSET, flat
from fedvpa.core.content import content_hash
from fedvpa.core.errors import DataError, RunError
from fedvpa.core.identity import Parts, differences
from fedvpa.core.options import option
from fedvpa.core.progress import say
from fedvpa.core.version import __version__
from fedvpa.data.load import load
from fedvpa.data.partition import Partition
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.identity import rendering_content
from fedvpa.features.store import data_hash
from fedvpa.models.loading_config import DEFAULT, LoadingConfig
from fedvpa.models.locate import locate
from fedvpa.policy.templates import with_template
from fedvpa.runs.config import RunConfig

CONTENT = {
    "data": "other pairs, or pairs of other users",
    "pairs": "other pairs or labels",
    "users": "other users",
    "selector": "another selector",
    "method": "another method",
    "seed": "another seed",
    "features.model": "another language model of the features (features.model)",
    "policy.model": "other weights, tokenizer or template of the base policy (policy.model)",
    "policy.candidates.prompt_file": "other content of the prompt file (policy.candidates.prompt_file)",
    "candidates": "other candidates",
}
"""Part → what its change is called, where its value would tell a reader nothing."""

VERSION = "version of fedvpa"
"""The part that is the version: another one may compute another result from the same settings."""

PLACES = ("data.path", "features.model", "features.cache_dir", "policy.model", "policy.candidates.prompt_file")
"""Keys that only say where something is; its content counts."""

LOADING = ("features.loading", "policy.loading")
"""What begins the keys of how a language model is loaded: :func:`model_content` has what of it decides a result."""

STAGE2 = ("policy.", "firm.")
"""What begins the keys of stage 2."""

FREE = ("engine.workers", "engine.checkpoint_every", "policy.checkpoint_every")
"""Keys that decide how often something is kept, or by how many threads it is computed, but not what."""


def data_fingerprint(table: PairTable, partition: Partition) -> str:
    """A hash of every text and of who holds what, in which part."""
    total = hashlib.sha256(data_hash(table.pairs).encode())
    for client in partition.clients:
        rows = [part.tolist() for part in (client.train, client.validation, client.test)]
        total.update(repr((client.client_id, client.group, client.seen, rows)).encode())
    return total.hexdigest()


def pairs_hash(pairs: Sequence[Pair]) -> str:
    """A hash of all that is read of pairs: texts, labels, users, groups, splits and weights."""
    total = hashlib.sha256(data_hash(pairs).encode())
    total.update(repr([(pair.user_id, pair.group, pair.split, pair.weight) for pair in pairs]).encode())
    conversations = [pair.conversation for pair in pairs]
    if any(one is not None for one in conversations):  # else the hash is that of releases that read none
        total.update(repr(conversations).encode())
    return total.hexdigest()


def pairs_content(config: RunConfig) -> str:
    """The content of a run's data: of a file, its pairs; the world's are decided by its keys and the version."""
    return UNSET if config.data.source == "world" else pairs_hash(load(config.resolved_data()).pairs)


def model_content(
    model: str, template_arguments: Mapping[str, Any] | None = None, loading: LoadingConfig = DEFAULT
) -> str:
    """The content of a language model: its weights, its tokenizer's files, and what its chat template writes."""
    source = locate(model, loading)
    rendering = rendering_content(source, template_arguments or {})
    return f"{source.identity()} {source.tokenizer_hash()} {rendering}"


def base_content(config: RunConfig) -> str:
    """The content of the base policy."""
    whole = with_template(config.policy, config.features)
    return model_content(whole.model or config.features.model, whole.template_arguments, whole.loading or DEFAULT)


def prompts_content(path: Path | None) -> str:
    """The content of a file of prompts.

    Raises:
        DataError: If it cannot be read.
    """
    if path is None:
        return UNSET
    try:
        return content_hash(path.expanduser())
    except OSError as error:
        raise DataError(f"cannot be read ({error}).", fix="Give a file of prompts.", where=str(path)) from error


def selector_content(config: RunConfig) -> dict[str, str]:
    """What decides a selector beside its settings: the version, pairs with labels, the language model of features."""
    return {VERSION: __version__, "pairs": pairs_content(config), "features.model": _features_model(config)}


def _features_model(config: RunConfig) -> str:
    return model_content(config.features.model, config.features.template_arguments, config.features.loading)


def policy_content(config: RunConfig) -> dict[str, str]:
    """What the configuration of stage 2 only names: the base policy, and public prompts."""
    return {
        "policy.model": base_content(config),
        "policy.candidates.prompt_file": prompts_content(config.policy.candidates.prompt_file),
    }


def selector_settings(config: RunConfig) -> dict[str, str]:
    """What the configuration says of stage 1 and decides its selector, beside :func:`selector_content`."""
    return {key: value for key, value in _settings(config).items() if not key.startswith(STAGE2)}


def policy_settings(config: RunConfig) -> dict[str, str]:
    """What the configuration says of stage 2 and decides its policy, beside :func:`policy_content`.

    How policies are judged is no part: to judge again is not to train again.
    """
    found = {key: value for key, value in _settings(config).items() if key.startswith(STAGE2)}
    return {key: value for key, value in found.items() if not key.startswith("policy.judging.")}


def checkpoint_parts(config: RunConfig, *, method: str, data: str, selector: str, users: str) -> Parts:
    """What a checkpoint of a policy has to find again; with noise on its clients' sums the section ``privacy``, too.

    Args:
        config: Of the run, with stage 2 as it is trained.
        method: What trains the policy.
        data: The fingerprint of the run's pairs and their holders.
        selector: A hash of the selector that labels; empty for a method without one.
        users: A hash of the users' posteriors; empty for a method that reads none.
    """
    made_from = {"method": method, "data": data, "selector": selector, "users": users}
    if config.privacy.on and method in POLICY_METHODS:
        made_from |= {key: value for key, value in _settings(config).items() if key.startswith("privacy.")}
    return {
        **policy_settings(config),
        **policy_content(config),
        **made_from,
        VERSION: __version__,
        "seed": str(config.seed),
    }


def check_content(config: RunConfig, then: Parts | None, where: str) -> None:
    """Refuse to go on with a selector whose data or language model have another content by now.

    Args:
        config: The run.
        then: :func:`selector_content` when the checkpoint was made; None in those of earlier releases.
        where: The run directory.

    Raises:
        RunError: Naming everything that has changed.
    """
    if then is None:
        say(f"{where} was begun by an earlier release: whether its language model is the same cannot be checked")
        return
    if changed := list(differences(then, selector_content(config), CONTENT)):
        raise RunError(
            f"was trained with {' and '.join(changed)}, so going on would mix two runs.",
            fix=f"Restore what it was made with, or start again with {option('overwrite', 'True')}.",
            where=where,
        )


def _settings(config: RunConfig) -> dict[str, str]:
    """The configuration key by key, without places and without what decides nothing."""
    found = {key: value for key, value in flat(config.model_dump(mode="json")) if key not in PLACES + FREE}
    return {key: value for key, value in found.items() if not key.startswith(LOADING)}
