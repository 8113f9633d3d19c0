"""The configuration of a run: the sections of all rooms, from a file and from ``key.path=value`` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import field_validator, model_validator

from fedvpa.algorithms.config import (
    BiscuitConfig,
    EmpiricalBayesConfig,
    LocalConfig,
    LoreConfig,
    MethodConfig,
    ServerConfig,
    VariationalConfig,
)
from fedvpa.algorithms.firm_config import FirmConfig
from fedvpa.algorithms.registry import METHODS, POLICY_METHODS
from fedvpa.core.config import Config, flat
from fedvpa.core.errors import ConfigError
from fedvpa.core.nested import apply, merged, plain, values_of_file
from fedvpa.core.numbers import Seed
from fedvpa.core.options import option
from fedvpa.core.written import NotYaml, settled
from fedvpa.data.config import DataConfig
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.sources.registry import SOURCES
from fedvpa.engines.config import EngineConfig
from fedvpa.evaluation.judges.registry import check_judge, how_to_set_a_judge, settings_section
from fedvpa.features.config import FeatureConfig
from fedvpa.models.folder import check_folder, is_gguf, local_place
from fedvpa.models.gguf_file import check_gguf
from fedvpa.policy.config import JudgingConfig, PolicyConfig
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.runs.presets import with_presets
from fedvpa.selector.config import SelectorConfig


class RunConfig(Config):
    """One run. On the bundled world, keys that are not given have the values of :mod:`fedvpa.runs.presets`.

    Attributes:
        data: Where the pairs come from.
        partition: Who holds them. Its ``kind`` is ``natural`` unless given: a user is a client.
        features: The frozen language model.
        method: The algorithm; see ``fedvpa.algorithms.registry``.
        selector: The shape of the preference model.
        local: Local training.
        variational: The terms of FedVPA-GP.
        biscuit: The selectors and groups of FedBiscuit.
        lore: The basis rewards of LoRe.
        eb: The hierarchical prior of ``fedeb``.
        firm: FIRM and its yardsticks, which train a policy under several objectives.
        server: Rounds and aggregation.
        engine: Who runs the clients.
        policy: Stage 2.
        privacy: User-level differential privacy of stage 1.
        seed: Names every random stream of the run.
    """

    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig(kind="natural")
    features: FeatureConfig = FeatureConfig()
    method: str = "fedeb"
    selector: SelectorConfig = SelectorConfig()
    local: LocalConfig = LocalConfig()
    variational: VariationalConfig = VariationalConfig()
    biscuit: BiscuitConfig = BiscuitConfig()
    lore: LoreConfig = LoreConfig()
    eb: EmpiricalBayesConfig = EmpiricalBayesConfig()
    firm: FirmConfig = FirmConfig()
    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    policy: PolicyConfig = PolicyConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """The bundled world's values where they are not given, and ``kind`` natural, whatever else a section holds."""
        if not isinstance(values, Mapping):
            return values
        filled, given = with_presets(values), values.get("partition")
        return {**filled, "partition": {"kind": "natural", **given}} if isinstance(given, Mapping) else filled

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in POLICY_METHODS:
            raise ConfigError(
                f"the clients of {value!r} train a policy, and a run's method trains a selector.",
                fix=f"Give {option('method', repr(value))} to align or to export flower.",
            )
        return METHODS.check(value)

    @field_validator("policy")
    @classmethod
    def _known_judge(cls, value: PolicyConfig) -> PolicyConfig:
        if value.judging.judge is None:
            return value
        try:
            check_judge(value.judging.judge)
        except ConfigError as error:
            where = "configuration key 'policy.judging.judge'"
            raise ConfigError(error.problem, fix=error.fix, where=where) from error
        return value

    def __repr__(self) -> str:
        """What is not a default, by dotted key: the whole of it fills a screen."""
        same_data = RunConfig.parse({"data": self.data.model_dump()})  # some defaults depend on the data
        data, others = RunConfig().model_dump(mode="json")["data"], same_data.model_dump(mode="json")
        standard = dict(flat({**others, "data": data}))
        mine = flat(self.model_dump(mode="json"))
        changed = [f"{key}={value}" for key, value in mine if standard.get(key) != value]
        return f"RunConfig({', '.join(changed)})"

    __str__ = __repr__

    @property
    def method_config(self) -> MethodConfig:
        """The sections that an algorithm reads."""
        return MethodConfig(
            selector=self.selector,
            local=self.local,
            variational=self.variational,
            biscuit=self.biscuit,
            lore=self.lore,
            eb=self.eb,
            firm=self.firm,
            server=self.server,
        )

    @property
    def judge_name(self) -> str:
        """The judge of this run's policies: the one that is set, or the exact one of the bundled world.

        Raises:
            ConfigError: If none is set and the data are not the world's; says which judges there are.
        """
        if self.policy.judging.judge is not None:
            return self.policy.judging.judge
        if self.data.source == "world":
            return "world"
        raise ConfigError(
            f"No judge is set, and data of the source {self.data.source!r} have none by default.",
            fix=how_to_set_a_judge(),
            where="configuration key 'policy.judging.judge'",
        )

    def with_clients(self, clients: int) -> Self:
        """The same run with so many seen clients; the bundled world gets as many users as that needs."""
        values = self.model_dump()
        values["partition"]["clients"] = clients
        return type(self).parse(values)

    def with_seed(self, seed: int) -> Self:
        """The same run under another seed; the bundled world draws other users."""
        values = self.model_dump()
        values["seed"] = seed
        if self.data.source == "world":
            values["data"]["seed"] = seed
        return type(self).parse(values)

    @property
    def same_users(self) -> bool:
        """Whether a client's name stands for the same person in runs that differ in their seed."""
        return self.partition.kind == "natural" and self.data.source != "world"

    def with_method(self, method: str) -> Self:
        """The same run of another method."""
        return type(self).parse({**self.model_dump(), "method": method})

    def located(self) -> Self:
        """The same run with absolute paths of local data and models, so that it can be read from anywhere."""
        data, features, policy = self.data, self.features, self.policy
        if data.path and Path(data.path).expanduser().exists():
            data = data.model_copy(update={"path": str(Path(data.path).expanduser().resolve())})
        if features.model and Path(features.model).expanduser().exists():
            features = features.model_copy(update={"model": str(Path(features.model).expanduser().resolve())})
        if features.cache_dir is not None:
            features = features.model_copy(update={"cache_dir": features.cache_dir.expanduser().resolve()})
        if policy.model and Path(policy.model).expanduser().exists():
            policy = policy.model_copy(update={"model": str(Path(policy.model).expanduser().resolve())})
        if policy.candidates.prompt_file is not None:
            file = policy.candidates.prompt_file.expanduser().resolve()
            candidates = policy.candidates.model_copy(update={"prompt_file": file})
            policy = policy.model_copy(update={"candidates": candidates})
        if policy.judging.prompt_file is not None or policy.judging.judge == "styles":
            policy = policy.model_copy(update={"judging": _located_judging(policy.judging)})
        privacy = self.privacy
        if privacy.public_pairs is not None:
            privacy = privacy.model_copy(update={"public_pairs": privacy.public_pairs.expanduser().resolve()})
        return self.model_copy(update={"data": data, "features": features, "policy": policy, "privacy": privacy})

    def check_engine(self) -> None:
        """Raise ConfigError if the engine cannot run, or needs packages that are not installed, before work is done."""
        if self.engine.name == "flower":
            self.privacy.check_no_canaries("engine.name=flower")
        if self.engine.secure_aggregation or self.privacy.in_shares:
            # deferred: it imports torch
            from fedvpa.engines.secure_aggregation import check_noise, check_secure

            check_noise(self.engine, self.privacy)
            check_secure(self.engine, self.server, private=self.privacy.on)
        if self.engine.name == "flower":
            from fedvpa.engines.flower.simulation import require_flower

            require_flower()

    def check_paths(self) -> None:
        """Raise what preparing the run would about missing data or a missing model folder, without heavy imports.

        A hub id is not looked up. Verbs call this before they import what computes.

        Raises:
            ConfigError: If the source needs a path and none is set, or no language model is named.
            DataError: If the data are not there.
            ModelError: If the model folder is not there, or not complete.
        """
        self.data.check_paths()
        place = local_place(self.features.named_model())
        if place is None:
            return
        if not is_gguf(place):
            check_folder(place)
        elif place.exists():  # the folder that one was converted to may outlive it
            check_gguf(place)

    def resolved_data(self) -> DataConfig:
        """The data section, with one world user for each client, and of the users who train the shares asked for.

        Where clients are users, unseen ones are taken evenly from the groups, so that a minority's are as well known
        as the majority's; the world then has so many users of each group that the others have ``data.user_shares``.
        """
        if self.data.source != "world":
            return self.data
        unseen, clients = self.partition.unseen, self.partition.clients
        users = self.data.users if clients is None else clients + unseen
        data = self.data.model_copy(update={"users": users})
        if not data.user_shares or self.partition.kind != "natural" or not 0 < unseen < users:
            return data
        from fedvpa.data.shares import shares_of_all  # deferred, with NumPy: a configuration is read without it

        return data.model_copy(update={"user_shares": shares_of_all(data.user_shares, users - unseen, unseen)})


def _located_judging(judging: JudgingConfig) -> JudgingConfig:
    """The same judging with absolute paths of its prompts and of a simulation."""
    update: dict[str, Any] = {}
    if judging.prompt_file is not None:
        update["prompt_file"] = judging.prompt_file.expanduser().resolve()
    if judging.judge == "styles" and judging.settings.get("path"):
        update["settings"] = {**judging.settings, "path": str(Path(judging.settings["path"]).expanduser().resolve())}
    return judging.model_copy(update=update)


def read_config(path: str | PathLike[str] | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, then apply ``key.path=value`` overrides.

    A key whose type is text takes its value as it is written; others are YAML. See :mod:`fedvpa.core.written`.

    Args:
        path: The file; None for defaults.
        overrides: Such as ``server.rounds=50`` or ``data.map.group=objective``.

    Raises:
        ConfigError: For a missing or broken file, an override without ``=``, an unknown key, an unusable value.
    """
    return _parsed({} if path is None else values_of_file(path), overrides)


def with_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """``config`` with ``key.path=value`` overrides applied. Raises as :func:`read_config`."""
    return _parsed(config.model_dump(), overrides)


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """``config`` with nested settings, as :func:`fedvpa.core.written.read_yaml` reads them.

    Raises:
        ConfigError: For an unknown key or an unusable value.
    """
    return RunConfig.parse(settled(merged(config.model_dump(), settings), RunConfig, _section_of))


def _parsed(values: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    for override in overrides:
        apply(values, override)
    try:
        return RunConfig.parse(settled(values, RunConfig, _section_of))
    except NotYaml as error:
        raise ConfigError(
            f"The value of the override {error.key}={error.text} is not YAML: {error}.",
            fix="Quote it, or close its brackets.",
        ) from error


def _section_of(path: tuple[str, ...], beside: Mapping[str, Any]) -> type[Config] | None:
    """What declares the keys of ``settings``: the source or the judge that is chosen beside them."""
    if path == ("data", "settings"):
        source = beside.get("source", DataConfig().source)
        return SOURCES.get(source).keys if source in SOURCES else None
    return settings_section(str(beside.get("judge"))) if path == ("policy", "judging", "settings") else None


def column_overrides(maps: Sequence[str]) -> list[str]:
    """``--map user_id=worker`` as overrides of ``data.map``."""
    return [f"data.map.{entry}" for entry in maps]


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(plain(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True)
