"""The differential privacy of a run: what its configuration comes to, and what its results say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.data.partition import Partition
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import PublicScaling
from fedvpa.engines.private import Ledger, Privacy, Terms
from fedvpa.engines.private_scaling import private_standardiser
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features
from fedvpa.features.precision import settled
from fedvpa.features.standardise import Moments, Standardiser
from fedvpa.features.store import FeatureStore
from fedvpa.privacy.accounting import epsilon_released
from fedvpa.privacy.canaries import SAID as CANARIES
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.discreteness import charged
from fedvpa.privacy.keyed import KEY_FILE, Key, read_key, write_key
from fedvpa.privacy.planning import noise_of
from fedvpa.privacy.statement import repeated, together, whoever_sees
from fedvpa.privacy.unmasked import UNMASKED_FILE, Unmasked
from fedvpa.runs.config import RunConfig
from fedvpa.runs.spending import distance, participations, server_epsilon
from fedvpa.selector.rotation import rotation_of, second_moment
from fedvpa.selector.scaling import Scaling

COVERED = (
    "all that one user holds, in all rounds: the sums that the server releases, so the selector and all that is made "
    "of it without users' data"
)
NOT_COVERED = (
    "what a server sees that receives each update by itself; who takes part, for a server that sees it; the user's own "
    "z, which is inferred on the device; prompts and latents of users in stage 2; timing and floating-point noise"
)
NOT_COVERED_SHARES = (
    "who takes part, for the server and for the nodes of a round; a server that does not follow the protocol, or that "
    "is told the noise of more nodes than assumed; the user's own z, which is inferred on the device; prompts and "
    "latents of users in stage 2; timing"
)
"""Where nodes add the noise."""


SEEDED = "simulation: coins and noise follow from the seed (privacy.seeded=true), so nothing is private"
"""What is said where that is asked for."""


def terms_of(
    privacy: PrivacyConfig, engine: EngineConfig, clients: int, rounds: int, cohort_key: str = "engine.cohort"
) -> Terms:
    """σ, q and δ of a federation.

    Args:
        privacy: The section.
        engine: Says how many clients a round asks.
        clients: N.
        rounds: How many sums are released.
        cohort_key: The configuration key of the cohort, for the message.

    Raises:
        ConfigError: If the cohort is larger than the federation, or as :func:`~fedvpa.privacy.planning.noise_of`.
    """
    if engine.cohort is not None and engine.cohort > clients:
        raise ConfigError(
            f"a cohort of {engine.cohort} is larger than the federation of {clients} clients, and what sampling gives "
            "to privacy follows from their ratio.",
            fix=f"Give {clients} at most; fewer clients a round are more private.",
            where=f"configuration key {cohort_key!r}",
        )
    cohort = engine.cohort_of(clients)
    found = noise_of(privacy, clients, cohort, rounds)
    return Terms(found.noise_multiplier, found.rate, float(cohort), clients, rounds, found.delta, found.once)


def privacy_of(
    config: RunConfig,
    clients: int,
    rounds: int,
    key: Key | None,
    *,
    nodes: int | None = None,
    unmasked: Unmasked | None = None,
) -> Privacy | None:
    """The mechanism of a run; None where nothing is noised.

    Args:
        config: The run.
        clients: N.
        rounds: How many sums are released.
        key: The run's; None for a new one that nobody keeps.
        nodes: How many nodes the clients are on; None for one each.
        unmasked: What counts how often noise of nodes was unmasked; None for nothing.

    Raises:
        ConfigError: If the method releases nothing, or as :func:`terms_of`.
    """
    if not config.privacy.on:
        return None
    if not rounds:
        raise ConfigError(
            f"nothing of {config.method!r} is released, so there is nothing to add noise to.",
            fix="Leave the section privacy out, or use another method.",
            where="configuration key 'method'",
        )
    terms = terms_of(config.privacy, config.engine, clients, rounds)
    if config.privacy.seeded:
        say(SEEDED)
        key = Key.of_seed(config.seed)
    if config.privacy.canaries:
        say(CANARIES)
    return Privacy(config.privacy, terms, key or Key.new(), nodes, unmasked or Unmasked())


def key_of(config: RunConfig, checkpoint: Path) -> Key | None:
    """The key of a run that goes on; None where it has none.

    Raises:
        RunError: If the run has lost it.
    """
    return read_key(checkpoint.with_name(KEY_FILE)) if config.privacy.on and not config.privacy.seeded else None


def unmasked_of(config: RunConfig, checkpoint: Path) -> Unmasked:
    """What counts how often noise of nodes was unmasked: beside the checkpoint, unless it is the same noise again."""
    counts = config.privacy.in_shares and not config.privacy.seeded
    return Unmasked(checkpoint.with_name(UNMASKED_FILE) if counts else None)


def keep_key(privacy: Privacy | None, checkpoint: Path) -> None:
    """Write the key of a run that begins beside its checkpoint; not one that follows from the seed."""
    if privacy is not None and not privacy.config.seeded:
        write_key(checkpoint.with_name(KEY_FILE), privacy.key)


def summary(privacy: Privacy, ledger: Ledger, client_ids: tuple[str, ...]) -> dict[str, Any]:
    """The key ``privacy`` of ``metrics.json``: what was promised, what was spent, and what it covers.

    ``epsilon_released`` is against those who do not see who took part, ``epsilon_server`` against a server that does:
    for the user who took part most often.
    """
    terms, times = privacy.terms, privacy.unmasked.times(ledger.releases)
    counts, in_shares = participations(privacy, times, client_ids), privacy.config.in_shares
    released = partial(epsilon_released, terms.noise_multiplier, terms.rate, sum(times), once=terms.once)
    shares = {"honest_share": privacy.config.honest_share, "unmasked": sum(times)} if in_shares else {}
    return {
        "noise_multiplier": terms.noise_multiplier,
        "rate": terms.rate,
        "rounds": ledger.releases,
        "clients": terms.clients,
        "delta": terms.delta,
        "noise": privacy.config.noise,
        **shares,
        "scaling": scaling_of(privacy.config),
        **({} if terms.once is None else {"scaling_noise": terms.once}),
        "epsilon_released": charged(released, terms.delta, distance(privacy, sum(times))),
        "epsilon_server": server_epsilon(privacy, counts),
        "most_participations": int(counts.max(initial=0)),
        "unit": "user",
        "relation": "add or remove one user",
        "sampling": privacy.config.sampling,
        "clip": {part: float(clip) for part, clip in ledger.clips.items()},
        "seeded": privacy.config.seeded,
        "covered": COVERED,
        "not_covered": NOT_COVERED_SHARES if in_shares else NOT_COVERED,
        **({"canaries": privacy.config.canaries} if privacy.config.canaries else {}),
    }


def said(found: Mapping[str, Any]) -> str:
    """The summary in one line."""
    simulated = "; seeded noise, a simulation" if found["seeded"] else ""
    simulated += f"; {CANARIES}" if found.get("canaries") else ""
    simulated += f"; {again}" if (again := repeated(found)) else ""
    simulated += f"; {together(found)}" if found.get("with_selector") else ""
    against = whoever_sees(found)
    return (
        f"privacy: ε = {found['epsilon_released']:.3g} at δ = {found['delta']:.2g} for one user more or less, for all "
        f"that is released; ε = {found['epsilon_server']:.3g} for {against}{simulated}"
    )


def unscaled(dimension: int, blocks: tuple[int, ...], *, rms: bool) -> PublicScaling:
    """Features as they are, but for the norm of a response: no sum over anybody enters.

    Args:
        dimension: Of a feature.
        blocks: How many dimensions each layer has.
        rms: Whether responses are brought to the same norm.
    """
    return PublicScaling(Scaling(Standardiser.identity(dimension), rms, blocks=blocks))


def scaling_of(privacy: PrivacyConfig) -> str:
    """What features are standardised by: ``public``, ``private`` or ``none``."""
    if privacy.scaling != "auto":
        return privacy.scaling
    return "none" if privacy.public_pairs is None else "public"


def check_scaling(config: RunConfig) -> None:
    """Raise ConfigError for settings of features that are computed from users' pairs, which noise does not cover."""
    public, rotation = config.privacy.public_pairs, config.selector.rotation
    if config.features.layer == "auto":
        raise ConfigError(
            "auto chooses layers by users' pairs, which noise does not cover.",
            fix="Give numbers of layers.",
            where="configuration key 'features.layer'",
        )
    if config.privacy.scaling == "private" and (config.privacy.in_shares or config.engine.secure_aggregation):
        raise ConfigError(
            "private scaling sums what users send before the first round where the noise is added, and the server of "
            "this run is to see no sum without noise, or none of single nodes.",
            fix="Give public pairs (privacy.public_pairs=FILE), or privacy.scaling=none.",
            where="configuration key 'privacy.scaling'",
        )
    if public is None and config.method == "fedeb":
        # With private scaling, which cannot turn them, one training of five on the bundled world learned nothing.
        raise ConfigError(
            "fedeb learns little or nothing from noised sums unless its features are standardised and turned, and the "
            "directions follow from users' pairs here.",
            fix="Give public pairs (privacy.public_pairs=FILE, a table), or method=fedem.",
            where="configuration key 'method'",
        )
    if public is None and rotation != "none":
        raise ConfigError(
            f"a rotation ({rotation}) follows from users' pairs, which noise does not cover.",
            fix="Give public pairs, from which it is computed then: privacy.public_pairs=FILE. Or give none.",
            where="configuration key 'selector.rotation'",
        )


def public_scaling(
    config: RunConfig, features: FeatureConfig, dimension: int, blocks: tuple[int, ...]
) -> PublicScaling:
    """How features are scaled and turned where sums over users may not say it: by public pairs, or not at all.

    Args:
        config: The run.
        features: As the users' pairs are read.
        dimension: Of a feature.
        blocks: How many dimensions each layer has.

    Raises:
        ConfigError: For settings of the features that are computed from users' pairs.
        DataError: If the public pairs cannot be read.
    """
    check_scaling(config)
    rms, public, rotation = config.selector.normalise == "rms", config.privacy.public_pairs, config.selector.rotation
    if public is None:
        return unscaled(dimension, blocks, rms=rms)
    table = load(DataConfig(source="table", path=str(public)))
    store = load_features(table, settled(features, table))
    chosen, rejected = (np.asarray(side, dtype=np.float64) for side in (store.chosen, store.rejected))
    scaling = Scaling(Standardiser.from_moments(Moments.of(chosen) + Moments.of(rejected)), rms, blocks=blocks)
    if rotation != "none":
        moment = second_moment(scaling.exact(chosen), scaling.exact(rejected), np.ones(len(chosen), dtype=np.float32))
        scaling = replace(scaling, rotation=rotation_of(moment, rotation, scaling.beside))
    squares = (scaling(chosen) - scaling(rejected)).double().square().mean(0)
    return PublicScaling(scaling, tuple((squares / squares.mean()).tolist()))


def private_scaling(
    privacy: PrivacyConfig,
    seed: int,
    store: FeatureStore,
    clients: Partition,
    weights: NDArray[np.float32],
    key: Key | None,
) -> Standardiser:
    """Mean and scale of users' features from one noised sum over all of them, with ``privacy.scaling=private``.

    Args:
        privacy: The section.
        seed: Of the run, which gives the key where ``privacy.seeded`` says so.
        store: Features of all pairs.
        clients: Who holds them.
        weights: Importance weights of all pairs.
        key: The run's; None for a new one that nobody keeps.
    """
    assert privacy.scaling_release is not None
    clip = privacy.feature_clip or float(np.sqrt(store.chosen.shape[1]))
    key = Key.of_seed(seed) if privacy.seeded else key or Key.new()
    noise = privacy.scaling_release
    found = private_standardiser(store, clients, weights, clip=clip, noise_multiplier=noise, key=key)
    if (found.scale == 1).all():
        say(
            "privacy.scaling=private: its noise drowns the features' variances, so they are read as they are. More "
            "users help, a smaller privacy.scaling_noise, or a privacy.feature_clip nearer to the features' length."
        )
    return found
