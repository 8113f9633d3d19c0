"""``features.layer=auto``: which layers of a language model tell the users' choices best, by pairs that never test.

The candidates are at most ``MOST_LAYERS`` layers, evenly spaced, the embeddings and the last one among them; then the
best one with another one beside it; then the best two with a third. A candidate's score is the held-out log-likelihood
of ridge heads (:mod:`fedvpa.selector.layer_score`) on the training and validation pairs of the clients that train, in
``FOLDS`` folds of whole prompts. Log-likelihood rather than accuracy, since it is less noisy on few pairs. More layers
must be better by more than one standard error, as in the rule of Breiman et al. (1984) for trees: they cost memory and
time. Everything is decided by hashes and sums, so the choice is the same each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.core.files import read_own_object, write_json
from fedvpa.core.progress import say
from fedvpa.core.seeds import entropy
from fedvpa.core.version import __version__
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.data.schema import PairTable, Unit
from fedvpa.data.splits import FEW_UNITS, unit_names
from fedvpa.features.backbone import count_layers
from fedvpa.features.config import FeatureConfig, Layers
from fedvpa.features.extract import load_features
from fedvpa.features.identity import cache_key
from fedvpa.features.precision import settled
from fedvpa.features.standardise import Moments, Standardiser
from fedvpa.features.store import FeatureStore, data_hash
from fedvpa.features.surface import surface_of
from fedvpa.models.locate import locate
from fedvpa.selector.layer_score import FoldedPairs, LayerScore, score_features
from fedvpa.selector.scaling import BESIDE, Scaling

MOST_LAYERS = 9
"""So many layers are tried on their own. Chosen by us: neighbours are nearly the same, and all of a small model fit."""

MOST_TOGETHER = 3
"""The most layers side by side. Chosen by us: memory and time grow with them, and a fourth gained nothing."""

MOST_PAIRS = 5000
"""So many pairs decide, of whole clients by the hash of their ids. Chosen by us: a difference of one point in accuracy
then shows, and extracting all candidates for them takes minutes on a CPU."""

FOLDS = 5
"""Chosen by us, as usual."""


@dataclass(frozen=True)
class Tried:
    """A candidate.

    Attributes:
        layers: Which layers.
        log_likelihood: Of held-out pairs, in nats per pair.
        accuracy: The share of them that is ordered right.
        standard_error: Of the difference of its log-likelihood to that of the best one with fewer layers, over users; 0
            of a single layer.
    """

    layers: tuple[int, ...]
    log_likelihood: float
    accuracy: float
    standard_error: float = 0.0


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        layers: The layers, in the order in which they were found.
        tried: All candidates, in the order in which they were tried.
    """

    layers: tuple[int, ...]
    tried: tuple[Tried, ...]


def resolved(features: FeatureConfig, table: PairTable, clients: Partition, *, rms: bool) -> FeatureConfig:
    """The features with the layers that are best for these clients, in place of ``auto``; others as they are.

    Says what was tried. The same question is answered from the cache.

    Args:
        features: How texts are read.
        table: The pairs.
        clients: Who holds them, and what tests.
        rms: Whether each layer is brought to one norm (``selector.normalise``).

    Raises:
        DataError: If the clients that train hold too few pairs to choose by.
    """
    if features.layer != "auto":
        return features
    source = locate(features.named_model(), features.loading)
    candidates = candidate_layers(count_layers(source))
    rows, users = _rows(clients)
    if len(rows) < FOLDS:
        raise DataError(
            f"{len(rows)} training pairs are too few to choose layers by.",
            fix="Name the layers: features.layer=-1.",
        )
    asked = features.model_copy(update={"layer": candidates, "surface": ()})
    chosen, unit = table.select(rows.tolist()), "prompt" if clients.rule is None else clients.rule.unit
    asked = settled(asked, chosen)
    pairs = _folded(chosen, users, unit)
    facts = [__version__, cache_key(asked, source), features.surface, rms, data_hash(chosen.pairs)]
    facts += [part.tolist() for part in (pairs.user, pairs.fold, pairs.weight)]
    path = features.cache_root() / "layers" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            store = load_features(chosen, asked)
            blocks = dict(zip(candidates, _layers(store, asked, rms=rms), strict=True))
            found = choose(blocks, _surface(chosen, features), pairs)
            write_json(path, {"layers": list(found.layers), "tried": [asdict(one) for one in found.tried]})
        choice = _read(path)
    _say(choice, len(rows), features.model)
    layer: Layers = choice.layers[0] if len(choice.layers) == 1 else choice.layers
    return features.model_copy(update={"layer": layer})


def candidate_layers(count: int) -> tuple[int, ...]:
    """The layers that are tried of a model with so many: from the embeddings, 0, to the last, −1."""
    places = np.unique(np.linspace(0, count, min(MOST_LAYERS, count + 1)).round().astype(int)).tolist()
    return (*places[:-1], -1)


def choose(
    layers: Mapping[int, Float[np.ndarray, "n d"]], surface: Float[np.ndarray, "n s"], pairs: FoldedPairs
) -> Choice:
    """The layers whose features tell the choices of users best.

    Args:
        layers: Layer → scaled differences Δh of its features.
        surface: Those of surface features, which stand beside any layer; without columns where there are none.
        pairs: Whose the pairs are, and in which fold.
    """
    chosen: tuple[int, ...] = ()
    best: LayerScore | None = None
    tried: list[Tried] = []
    while len(chosen) < min(MOST_TOGETHER, len(layers)):
        scores: dict[tuple[int, ...], LayerScore] = {}
        for layer in layers:
            if layer not in chosen:
                beside = tuple(sorted((*chosen, layer), key=_depth))
                blocks = [layers[one] for one in beside]
                scores[beside] = score_features(np.concatenate([*blocks, surface], axis=1), pairs)
        errors = {name: 0.0 if best is None else one.gain(best, pairs.user)[1] for name, one in scores.items()}
        tried += [Tried(name, one.mean, one.accuracy, errors[name]) for name, one in scores.items()]
        found = max(scores, key=lambda name: scores[name].mean)
        if best is not None and scores[found].mean - best.mean <= errors[found]:
            break
        chosen, best = found, scores[found]
    return Choice(chosen, tuple(tried))


def _rows(clients: Partition) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that decide, and whose each is: of whole clients, those with the smallest hashes of their ids."""
    rows, users = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    left = MOST_PAIRS
    for number, client in enumerate(sorted(clients.seen, key=_rank)):
        held = np.concatenate([client.train, client.validation])[: max(left, 0)]
        rows.append(held)
        users.append(np.full(len(held), number))
        left -= len(held)
    return np.concatenate(rows), np.concatenate(users)


def _rank(client: ClientRows) -> int:
    return entropy(0, "layers", client.client_id)


def _folded(chosen: PairTable, users: NDArray[np.int64], unit: Unit) -> FoldedPairs:
    """The pairs with a fold of each, by the hash of what is held out as a whole; of pairs where prompts are too few."""
    names = unit_names(chosen.pairs, unit)
    if len(set(names)) < FEW_UNITS:
        names = unit_names(chosen.pairs, "pair")
    places = {name: place for place, name in enumerate(sorted(set(names), key=lambda name: entropy(0, "fold", name)))}
    fold = np.array([places[name] % FOLDS for name in names])
    return FoldedPairs(users, fold, np.array([pair.weight for pair in chosen.pairs], dtype=np.float64))


def _layers(store: FeatureStore, asked: FeatureConfig, *, rms: bool) -> list[Float[np.ndarray, "n d"]]:
    """Scaled differences of each layer, float32."""
    width, found = asked.widths(store.chosen.shape[1])[0], []
    for start in range(0, store.chosen.shape[1], width):
        sides = [np.asarray(side[:, start : start + width]) for side in (store.chosen, store.rejected)]
        found.append(_difference(sides, rms=rms))
    return found


def _surface(chosen: PairTable, features: FeatureConfig) -> Float[np.ndarray, "n s"]:
    """Differences of surface features as a selector scales them; without columns where there are none."""
    if not features.surface:
        return np.zeros((len(chosen), 0), np.float32)
    texts = ([pair.chosen for pair in chosen.pairs], [pair.rejected for pair in chosen.pairs])
    return np.float32(BESIDE) * _difference([surface_of(side, features.surface) for side in texts], rms=False)


def _difference(sides: Sequence[NDArray[np.floating]], *, rms: bool) -> Float[np.ndarray, "n d"]:
    scaling = Scaling(Standardiser.from_moments(Moments.of(sides[0]) + Moments.of(sides[1])), rms)
    chosen, rejected = (scaling(side).numpy() for side in sides)
    difference: NDArray[np.float32] = chosen - rejected
    return difference


def _read(path: Path) -> Choice:
    """A choice that is kept."""
    kept = read_own_object(path)
    tried = [Tried(**{**one, "layers": tuple(one["layers"])}) for one in kept["tried"]]
    return Choice(tuple(kept["layers"]), tuple(tried))


def _say(choice: Choice, pairs: int, model: str) -> None:
    """The candidates and the choice, on stderr."""
    say(f"features.layer=auto: layers of {model} by {pairs} pairs that do not test, each under heads fitted on others")
    for one in choice.tried:
        name = ", ".join(map(str, one.layers))
        error = f" ± {one.standard_error:.4f}" if one.standard_error else ""
        mark = "  ← chosen" if one.layers == choice.layers else ""
        say(f"  layer {name:<12} {one.log_likelihood:.4f}{error} nats, {one.accuracy:.1%} right{mark}")
    layers = list(choice.layers) if len(choice.layers) > 1 else choice.layers[0]
    say(f"features.layer={layers}")


def _depth(layer: int) -> float:
    """By which layers are ordered: −1 is the last."""
    return layer if layer >= 0 else np.inf
