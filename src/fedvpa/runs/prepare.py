"""From a configuration to clients with features: pairs ──► features ──► partition ──► federation."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedvpa.core.errors import DataError, ModelError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.familiar import never_aside, set_aside
from fedvpa.data.holdout import load_holdout, rows_by_group
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.data.report import DataReport
from fedvpa.data.schema import PairTable, Text
from fedvpa.data.splits import HeldOut, Ints
from fedvpa.data.unused import note_unused
from fedvpa.engines.federation import Federation, PublicScaling, federate
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features
from fedvpa.features.identity import cache_key
from fedvpa.features.precision import settled
from fedvpa.features.standardise import Standardiser
from fedvpa.features.store import FeatureReport, FeatureStore
from fedvpa.models.encoding import SAME_TOKENS
from fedvpa.models.folder import BUNDLED
from fedvpa.models.load import open_tokenizer
from fedvpa.models.loading_config import LoadingConfig
from fedvpa.models.locate import locate, locate_for
from fedvpa.models.reading import TEXTS, check_readable
from fedvpa.models.rendering import is_conversational, say_header
from fedvpa.privacy.keyed import Key
from fedvpa.runs.config import RunConfig
from fedvpa.runs.identity import data_fingerprint
from fedvpa.runs.layers import resolved
from fedvpa.runs.noise import private_scaling, public_scaling, unscaled
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.scaling import Scaling
from fedvpa.selector.selector import Selector

TOO_LONG = "longer than features.max_{}_tokens, or than the model's positions allow"
SPELLED_CONTROL = (
    "the text spells a control token of the model and is read as text "
    "(features.template=rendered reads strings that a chat template wrote)"
)


@dataclass(frozen=True, repr=False)
class Prepared:
    """Pairs, their features and the clients that hold them.

    Attributes:
        table: The pairs.
        federation: The clients.
        features: How the language model was read, with ``template`` as the data have it.
        feature_key: Names the features, as JSON.
        held_out: What tests, and how much of it there is.
        aside: Client id → rows that test on what others train on; see :func:`fedvpa.data.familiar.set_aside`.
    """

    table: PairTable
    federation: Federation
    features: FeatureConfig
    feature_key: str
    held_out: HeldOut
    aside: Mapping[str, Ints] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def pairs(self) -> ClientPairs:
        """The text that the clients hold."""
        return ClientPairs(self.table, self.federation.partition)

    def fingerprint(self) -> str:
        """What a resumed run must find again; see :func:`fedvpa.runs.identity.data_fingerprint`."""
        return data_fingerprint(self.table, self.federation.partition)


@dataclass(frozen=True, repr=False)
class Holdout:
    """Further labelled pairs, which nobody trained on.

    Attributes:
        pairs: Group → their scaled features.
        report: What was read, and what of it was left out, cut or changed.
    """

    pairs: Mapping[str, Pairs]
    report: DataReport

    __repr__ = short_repr


def prepare(
    config: RunConfig,
    *,
    on_node: bool = False,
    aside: float = 0.0,
    key: Key | None = None,
    kept: Standardiser | None = None,
) -> Prepared:
    """Load the pairs, deal them to clients and extract (or read) their features.

    Args:
        config: The run.
        on_node: Whether these are the few clients of one node of a deployment, which may have nothing to test on.
        aside: The share of units whose pairs test instead of train, where others train on them; see
            :func:`fedvpa.data.familiar.set_aside`.
        key: Where the noise on sums of features comes from, with ``privacy.scaling=private``; None for a new one that
            nobody keeps.
        kept: What those sums gave when the run began.

    Raises:
        InputError: If the data or the language model cannot be used, or the model cannot read the data.
    """
    table = load(config.resolved_data())
    features = pinned(read_as(table, config.features))
    clients = partition(table, config.partition, config.seed)
    held_out = clients.held_out(table, check=not on_node)
    table = note_unused(table, clients, config.partition)
    check_reader(config, table)
    if features.template == "chat":
        say_header(open_tokenizer(locate(features.model, features.loading)), json.dumps(features.template_arguments))
    if features.layer == "auto" and not on_node:
        choose_by = never_aside(table, clients, aside, config.seed) if aside else clients
        features = resolved(features, table, choose_by, rms=config.selector.normalise == "rms")
    features = settled(features, table)
    store = load_features(table, features)
    table = noted(table, store.report)
    if store.report.equal_rows:
        clients = clients.without(store.report.equal_rows)
        held_out = clients.held_out(table, check=not on_node)
    clients, taken = set_aside(table, clients, aside, config.seed) if aside else (clients, {})
    weights = np.array([pair.weight for pair in table.pairs], dtype=np.float32)
    blocks = features.widths(store.chosen.shape[1])
    public = _without_users(config, features, store.chosen.shape[1], blocks, on_node=on_node)
    if config.privacy.scaling_release is not None and not on_node:
        found = kept or private_scaling(config.privacy, config.seed, store, clients, weights, key)
        public = PublicScaling(Scaling(found, config.selector.normalise == "rms", blocks=blocks))
    federation = federate(
        store,
        clients,
        rms=config.selector.normalise == "rms",
        weights=weights,
        rotation="none" if on_node else config.selector.rotation,  # a node's comes from the server
        blocks=blocks,
        public=public,
    )
    return Prepared(table, federation, features, json.dumps(feature_key(features), sort_keys=True), held_out, taken)


def _without_users(
    config: RunConfig, features: FeatureConfig, dimension: int, blocks: tuple[int, ...], *, on_node: bool
) -> PublicScaling | None:
    """Where sums are noised, how features are scaled without users' sums; a node's server says how. None elsewhere."""
    if not config.privacy.on:
        return None
    rms = config.selector.normalise == "rms"
    return unscaled(dimension, blocks, rms=rms) if on_node else public_scaling(config, features, dimension, blocks)


def say_features(features: FeatureConfig) -> None:
    """Say what is read of responses, where it is more than one layer of the language model."""
    if len(features.layers) == 1 and not features.surface:
        return
    read = f"layers {', '.join(map(str, features.layers))}" if len(features.layers) > 1 else f"layer {features.layer}"
    counted = f", and of the text {', '.join(features.surface)} (features.surface=[] leaves it out)"
    say(f"features: {read} of {features.model}{counted if features.surface else ''}")


def read_as(table: PairTable, features: FeatureConfig) -> FeatureConfig:
    """How texts of a run are read: where its data are conversations, a string is one message."""
    if features.template != "plain" or not is_conversational([pair.prompt for pair in table.pairs]):
        return features
    return features.model_copy(update={"template": "chat"})


def pinned(features: FeatureConfig) -> FeatureConfig:
    """The same with the commit of a hub model, whose branch may move while the run lasts."""
    source = locate(features.named_model(), features.loading)
    if not source.revision:
        return features
    return features.model_copy(update={"loading": features.loading.model_copy(update={"revision": source.revision})})


def noted(table: PairTable, report: FeatureReport) -> PairTable:
    """The same table, whose report says what its texts lost on the way to features."""
    unreadable = dict(zip(report.unreadable_rows, report.unreadable_reasons, strict=True))
    for reason in dict.fromkeys(unreadable.values()):
        table = table.noting([row for row, why in unreadable.items() if why == reason], reason)
    table = table.noting([row for row in report.equal_rows if row not in unreadable], SAME_TOKENS)
    table = table.noting(report.spelling_rows, SPELLED_CONTROL, effect="changed", asked=True)
    prompt, response = ([] if row is None else [row] for row in report.first_cut)
    cuts = ((prompt, "prompt", report.prompts_truncated), (response, "response", report.responses_truncated))
    for first, unit, count in cuts:
        table = table.noting(first, TOO_LONG.format(unit), effect="cut", unit=unit, count=count, asked=True)
    return table


def check_reader(config: RunConfig, table: PairTable) -> None:
    """Say it, or raise ModelError, if the features' language model knows too little of the pairs' language.

    The bundled world is not asked about its own model.
    """
    model = config.features.named_model()
    if config.data.source != "world" or model != BUNDLED:
        _check_reader(model, config.features.loading, _some_texts(table), config.data.strict)


@functools.lru_cache(maxsize=8)  # the cells of a comparison ask the same, and one answer is enough
def _check_reader(model: str, loading: LoadingConfig, texts: tuple[Text, ...], strict: bool) -> None:
    tokenizer = open_tokenizer(locate(model, loading))
    check_readable(texts, tokenizer, model, key="features.model", strict=strict)


def _some_texts(table: PairTable) -> tuple[Text, ...]:
    pairs = table.pairs[:: max(1, len(table) // TEXTS)]
    return tuple(text for pair in pairs for text in (pair.prompt, pair.chosen, pair.rejected))


def feature_key(config: FeatureConfig) -> dict[str, Any]:
    """What features mean, whatever the data and the precision: a selector only reads those it was trained on.

    The language model is named by its content, since each machine may have it from elsewhere.

    Raises:
        ModelError: If it is not here; says how to name its place.
    """
    source = locate_for("features.model", config.named_model(), config.loading)
    surface = {"surface": list(config.surface)} if config.surface else {}
    return {
        name: part for name, part in cache_key(config, source).items() if name not in ("dtype", "storage")
    } | surface


def check_features(config: FeatureConfig, selector: Selector) -> None:
    """Refuse features that the selector was not trained on.

    Raises:
        ModelError: Naming the first thing that differs.
    """
    trained, now = json.loads(selector.feature_key or "{}"), feature_key(config)
    for name in dict.fromkeys([*now, *trained]):
        if name == "rendering" and name not in trained:
            continue  # runs of releases that did not record it
        if name == "model" and locate(config.named_model(), config.loading).known_as(str(trained.get(name))):
            continue
        if trained.get(name) != now.get(name):
            raise ModelError(
                f"The selector was trained on features with {name} = {trained.get(name)!r}, and these have "
                f"{now.get(name)!r}.",
                fix=f"Leave features.{name} as the run has it."
                if name in ("layer", "surface")
                else "Give the language model that the run was trained with: features.model=PATH.",
                where=config.model,
            )


def prepare_holdout(config: RunConfig, path: Path, table: PairTable, scaling: Scaling) -> Holdout:
    """Further labelled pairs, which nobody trained on.

    Args:
        config: The run; its columns (``data.map``) and language model are used.
        path: A file of pairs, or the folder of another source.
        table: The pairs of the clients; hold-out pairs among them are left out.
        scaling: The run's.

    Raises:
        DataError: If the file cannot be used, or lacks a group of the clients.
    """
    held = load_holdout(config.data.model_copy(update={"path": str(path), "split": "", "reserved": 0.0}), table)
    store = load_features(held, config.features)
    held, equal = noted(held, store.report), store.report.equal_rows
    rows = {group: np.setdiff1d(own, equal) for group, own in rows_by_group(held).items()}
    pairs = {group: _pairs(store, held, own, scaling) for group, own in rows.items() if len(own)}
    return Holdout(pairs, held.report)


def prepare_pairs(config: FeatureConfig, table: PairTable, scaling: Scaling) -> tuple[PairTable, Pairs]:
    """The pairs of a table that can be ordered, and their scaled features.

    Those whose responses have the same tokens are left out; the report of the table counts them.

    Raises:
        DataError: If none is left.
    """
    store = load_features(table, config)
    rows = np.setdiff1d(np.arange(len(table)), store.report.equal_rows)
    found = noted(table, store.report)
    if not len(rows):
        raise DataError(f"None of the {len(table)} pairs can be used: {SAME_TOKENS}.", fix="Give other pairs.")
    return found.select(rows.tolist()), _pairs(store, table, rows, scaling)


def _pairs(store: FeatureStore, table: PairTable, rows: np.ndarray, scaling: Scaling) -> Pairs:
    chosen, rejected = scaling(np.asarray(store.chosen[rows])), scaling(np.asarray(store.rejected[rows]))
    weight = torch.tensor([table.pairs[row].weight for row in rows], dtype=chosen.dtype)
    return Pairs(chosen, rejected, weight, torch.ones_like(weight))
