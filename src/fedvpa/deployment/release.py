"""What the server of a federation gives its nodes: the selector and the policy of a run, and nothing of a user.

A release is a run directory for the verbs that serve: ``personalize``, ``generate`` and ``evaluate`` open it on a
machine that has the language model and a user's own pairs, offline. A federation that trained a policy alone gives that
alone. What is in it is named here, so that a file that some later step leaves in a run is not given away by accident:
no users, no private state, no history (which has the ids of cohorts), no checkpoint, no answers, and no path of the
server's data.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.core.files import empty_folder, new_folder, read_own_object, read_own_text, write_json, write_text
from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.core.version import __version__
from fedvpa.data.config import DataConfig
from fedvpa.models.loading_config import DEFAULT
from fedvpa.models.locate import label_of, locate_for
from fedvpa.policy.files import PREFERENCES, read_policy, read_preferences
from fedvpa.policy.preference import shareable
from fedvpa.policy.templates import with_base
from fedvpa.runs.config import RunConfig, dump
from fedvpa.runs.folder import SCHEMA_LINE, RunFolder
from fedvpa.runs.policies import read_policy_metrics
from fedvpa.runs.policy_checkpoints import checkpoints
from fedvpa.runs.prepare import check_features
from fedvpa.runs.stage1 import trained_selector
from fedvpa.selector.selector import Selector

PLACES = ("features.model", "policy.model")
"""What a release may be told: where nodes have the language models, as a hub id or a path."""

WEIGHTS = ("adapter_model.safetensors", "z_conditioner.safetensors")
"""Of a policy; one without z has no conditioner."""

GUIDE = """\
# What serves the users of a node

Trained by {methods} with fedvpa {version}. It holds no user's pairs, no user's z and nobody's name. Its weights were
learned from users' pairs{card}.

{models}

Where such a model is another folder on this machine, add its key to a command, as in `features.model=PATH`; another
model is refused.
{personalize}{generate}"""

CARD = "; `policy/README.md` says what left their devices for it"

PERSONALIZE = """
A user's preferences, from the user's own labelled pairs, which stay on this machine:

    fedvpa personalize . --pairs mine.jsonl
"""

GENERATE = """
Answers{follow}:

    fedvpa generate . --prompt TEXT{preference}
"""


@dataclass(frozen=True)
class Release:
    """What was written.

    Attributes:
        folder: Where.
        files: All files, relative to it.
        policies: The names of the policies: ``""`` for one for all; empty if the run has none.
        left_out: Preferences that the run knows by name and the release does not, since their z is made from users'.
    """

    folder: Path
    files: tuple[str, ...]
    policies: tuple[str, ...]
    left_out: tuple[str, ...]


def write_release(run: RunFolder, folder: Path, places: Sequence[str] = ()) -> Release:
    """Write what nodes need to serve their users.

    Args:
        run: A run with a trained selector or a policy, of a deployment's server or of a simulation.
        folder: Where to; must be empty or not exist.
        places: Where nodes have the language models, such as ``features.model=HUB_ID``; each must be here too, and is
            checked by its content.

    Raises:
        ConfigError: For an override of anything else, or a method that has no selector for all.
        RunError: If the run holds neither a trained selector nor a policy, or one that is not finished, or ``folder``
            holds files.
        ModelError: If a language model is not the one that was trained with.
        StorageError: If the folder cannot be written.
    """
    check_places(places)
    folder = empty_folder(folder, "a release")
    config = run.config(places)
    names = _policies(run)
    selector = _selector(run, config, needed=not names)
    if selector is not None and any(place.startswith("features.model=") for place in places):
        check_features(config.features, selector)
    with new_folder(folder) as made:
        left_out = _write(run, config, told(places), selector, names, made)
    files = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
    return Release(folder, files, names, left_out)


def check_places(places: Sequence[str]) -> None:
    """Raise ConfigError for an override of anything else than where others have the language models."""
    for place in places:
        key = place.partition("=")[0]
        if key not in PLACES:
            raise ConfigError(
                f"{key} cannot be changed by a release.",
                fix=f"Say where nodes have the language models: {' or '.join(f'{known}=PATH' for known in PLACES)}.",
            )


def _policies(run: RunFolder) -> tuple[str, ...]:
    """The policies of a run; none, and a line on stderr that says so, if it was not aligned.

    Raises:
        RunError: If there is one that is not finished.
    """
    if not run.policy.is_dir() and not checkpoints(run):
        command = shlex.join(["fedvpa", "align", str(run)])
        say(f"{run} holds no policy, so nodes can personalize, and not generate. First: {command}")
        return ()
    return tuple(read_policy_metrics(run)["policies"])


def _selector(run: RunFolder, config: RunConfig, *, needed: bool) -> Selector | None:
    """The run's selector; None, and a line on stderr that says so, of a federation that trained a policy alone.

    Raises:
        ConfigError: If the method has one for each client.
        RunError: If there is none, and it is ``needed``.
    """
    if not needed and not run.selector.is_dir():
        say(f"{run} holds no selector, so nodes can generate, and not personalize")
        return None
    if not make(config.method, config.method_config).rounds:
        raise ConfigError(
            f"{config.method!r} has a selector for each client, and none to give to others.", fix="Take another run."
        )
    return trained_selector(run)


def _write(
    run: RunFolder,
    config: RunConfig,
    where: Mapping[str, str],
    selector: Selector | None,
    names: Sequence[str],
    made: Path,
) -> tuple[str, ...]:
    """Write everything into a new folder; the preferences by name that are left out."""
    write_text(made / "config.yaml", f"{SCHEMA_LINE}{VERSIONS['run']}\n{dump(_for_nodes(config))}")
    if selector is not None:
        selector.save_pretrained(made / "selector")
    left_out: tuple[str, ...] = ()
    policy = RunFolder(made).policy
    for name in names:
        write_policy(run.policy / name, policy / name, config, where)
    if names:
        prototypes = [] if selector is None else selector.prototypes.tolist()
        named, left_out = shareable(read_preferences(run.policy), prototypes)
        write_json(policy / PREFERENCES, named)
        version, method = VERSIONS["policy metrics"], read_policy_metrics(run)["method"]
        noted = {"schema_version": version, "method": method, "policies": {name: {} for name in names}, "data": None}
        write_json(policy / "metrics.json", noted)
    write_text(made / "README.md", _guide(config, selector, policy, names))
    return left_out


def _for_nodes(config: RunConfig) -> RunConfig:
    """The run as a node reads it: no place of the server's files, and devices as they are there."""
    data = config.data
    values: dict[str, Any] = {"source": "table", "strict": data.strict}
    if data.source == "table":
        values |= {"map": data.map.model_dump(), "winner_values": dict(data.winner_values)}
    features = config.features.model_copy(update={"cache_dir": None, "device": "auto"})
    candidates = config.policy.candidates.model_copy(update={"prompt_file": None})
    policy = config.policy.model_copy(update={"candidates": candidates})
    privacy = config.privacy.model_copy(update={"public_pairs": None})
    sections = {"data": DataConfig.parse(values), "features": features, "policy": policy, "privacy": privacy}
    return config.model_copy(update=sections)


def told(places: Sequence[str]) -> dict[str, str]:
    """Key → where nodes have that language model."""
    return {key: value for key, _, value in (place.partition("=") for place in places)}


def write_policy(source: Path, target: Path, config: RunConfig, where: Mapping[str, str]) -> None:
    """Write one policy, with the name of its base model as nodes are told it, else as the policy has it.

    Raises:
        ModelError: If what nodes are told is another model.
    """
    saved = read_policy(source)
    before, settings = saved["model"], {**saved.get("settings", {})}
    settings["candidates"] = {**settings.get("candidates", {}), "prompt_file": None}
    place = where.get("policy.model", None if settings.get("model") else where.get("features.model"))
    if place is not None:
        saved |= _base_at(place, saved, config)
        settings["model"] = where.get("policy.model")
    write_json(target / "policy.json", {**saved, "settings": settings})
    adapter = read_own_object(source / "adapter_config.json")
    named = {"base_model_name_or_path": saved["model"], "revision": saved.get("revision")}
    write_json(target / "adapter_config.json", {**adapter, **named})
    for name in WEIGHTS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (source / "README.md").is_file():
        card = read_own_text(source / "README.md")
        write_text(target / "README.md", card.replace(f"base_model: {before}\n", f"base_model: {saved['model']}\n"))


def _base_at(place: str, saved: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """What ``policy.json`` says of a base model that nodes have at ``place``."""
    source = locate_for("policy.model", place, with_base(config.policy, config.features).loading or DEFAULT)
    if not source.known_as(saved["base"]):
        raise ModelError(
            f"The policy was trained on another model than {place!r}.",
            fix="Name the one that it was trained on.",
            where=f"policy.model={place}",
        )
    # A path that nodes are told is theirs: they look there, and not for what this machine knows of the content.
    origin = source.origin if source.origin in ("hub", "bundled") else "told"
    return {"model": place, "origin": origin, "revision": source.revision or None}


def _guide(config: RunConfig, selector: Selector | None, policy: Path, names: Sequence[str]) -> str:
    """The README of a release, for whoever is given it."""
    saved = read_policy(policy / names[0]) if names else {}
    follows = saved.get("conditioner") is not None and selector is not None
    methods = dict.fromkeys(([config.method] if selector is not None else []) + ([saved["method"]] if saved else []))
    read = [f"The selector reads features of `{label_of(config.features.model)}` (features.model)."] if selector else []
    based = [f"The policy is one of `{saved['model']}` ({_place_of(saved)})."] if saved else []
    group = " --preference GROUP" if names and names[0] else ""
    generate = GENERATE.format(
        follow=" that follow them" if follows else "", preference=" --preference @mine.jsonl" if follows else group
    )
    return GUIDE.format(
        methods=" and ".join(f"`{method}`" for method in methods),
        version=__version__,
        card=CARD if saved else "",
        models=" ".join([*read, *based]),
        personalize=PERSONALIZE if selector is not None else "",
        generate=generate if saved else "",
    )


def _place_of(saved: Mapping[str, Any]) -> str:
    """The key that says where a policy's base model is: that of the features, unless stage 2 named its own."""
    return "policy.model" if saved["settings"].get("model") else "features.model"
