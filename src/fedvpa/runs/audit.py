"""The attacks of an audit: canaries, messages, the released model. docs/privacy.md says what each assumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedvpa.algorithms.registry import make
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree, below
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.engines import loop, vectorised
from fedvpa.engines.checkpoint import load_checkpoint
from fedvpa.engines.federation import Federation
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.recording import Recorder, Table
from fedvpa.engines.training import rounds, start
from fedvpa.evaluation.accuracy import infer_clients
from fedvpa.evaluation.attribute_inference import Guessed, guess_from_sums, guess_groups, guess_others
from fedvpa.objectives.bradley_terry import choice_log_likelihood
from fedvpa.privacy.accounting import epsilon_server
from fedvpa.privacy.audit import Guesses, Separation, best_bound, largest_bound, separation
from fedvpa.privacy.keyed import Key
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import workers_of
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.noise import key_of, privacy_of
from fedvpa.selector.selector import Selector


@dataclass(frozen=True)
class Shown:
    """What guesses about canaries show against one who looks on.

    Attributes:
        claimed: ε that the run claims.
        shown: ε that is refuted with 95% confidence.
        guesses: How many coins were guessed, and how many rightly.
        membership: How well planted canaries are told from the others.
    """

    claimed: float
    shown: float
    guesses: Guesses
    membership: Separation | None


@dataclass(frozen=True)
class CanaryAudit:
    """The canaries of a run.

    Attributes:
        canaries: m.
        planted: How many were planted.
        largest: The most that so many canaries can show, about ln(m/3).
        delta: δ of the claims.
        released: Against one who does not see who took part.
        server: Against one who does.
    """

    canaries: int
    planted: int
    largest: float
    delta: float
    released: Shown
    server: Shown


@dataclass(frozen=True)
class AttributeRow:
    """How well groups are guessed from what somebody sees.

    Attributes:
        who: Who looks on.
        sees: What it sees.
        guessed: How well; None where it could not be tried.
    """

    who: str
    sees: str
    guessed: Guessed | None


def audit_canaries(run: RunFolder, config: RunConfig, metrics: Mapping[str, Any]) -> CanaryAudit:
    """What a finished run's released sums tell about the coins of its canaries.

    Raises:
        RunError: If the key or the checkpoint of the run is gone.
    """
    algorithm, found = make(config.method, config.method_config), metrics["privacy"]
    state, _ = load_checkpoint(run.checkpoint, algorithm.state_type)
    key = key_of(config, run.checkpoint) or Key.of_seed(config.seed)
    numbers = {name: found[name] for name in ("noise_multiplier", "rate", "clients", "rounds", "delta")}
    privacy = Privacy(config.privacy, Terms(cohort=found["rate"] * found["clients"], **numbers), key)
    release = privacy.next(state.ledger, algorithm.expected(state.server))
    canaries, evidence = release.canaries, release.ledger.evidence
    assert canaries is not None
    deviation = found["noise_multiplier"] * release.shape.sensitivity
    planted, delta = canaries.planted, found["delta"]
    most = int(evidence["rounds"].max())
    claims = found["epsilon_released"], epsilon_server(found["noise_multiplier"], most, delta)
    scores = (
        canaries.released_scores(evidence, found["rounds"], deviation),
        canaries.server_scores(evidence, deviation),
    )
    released, server = (_shown(claim, one, planted, delta) for claim, one in zip(claims, scores, strict=True))
    return CanaryAudit(len(planted), int(planted.sum()), largest_bound(len(planted)), delta, released, server)


def _shown(claimed: float, scores: NDArray[np.float64], planted: NDArray[np.bool_], delta: float) -> Shown:
    bound, guesses = best_bound(scores, planted, delta)
    return Shown(claimed, bound, guesses, separation(scores[planted], scores[~planted]))


@dataclass(frozen=True, repr=False)
class Replayed:
    """A training that was run again, with what was sent in it.

    Attributes:
        recorder: What was sent.
        last: What would be sent after the last round.
        selector: What it gave.
    """

    recorder: Recorder
    last: Tree
    selector: Selector

    __repr__ = short_repr


def replay(config: RunConfig, federation: Federation) -> Replayed:
    """Train as ``config`` says, in memory, without canaries, and write down what is sent.

    Coins and noise are new: they follow from another key than the run's. The server adds the noise, also where nodes
    do: sums are written down before, so what the server of such a run is guessed from is more than it has.
    """
    privacy = config.privacy.model_copy(update={"canaries": 0, "noise": "server"})
    name = "loop" if config.engine.name == "loop" else "vectorised"
    engine = config.engine.model_copy(update={"name": name, "secure_aggregation": False})
    config = config.model_copy(update={"privacy": privacy, "engine": engine})
    algorithm = make(config.method, config.method_config)
    mechanism = privacy_of(config, len(federation.client_ids), algorithm.rounds, None)
    plain = partial(vectorised.run_cohort, workers=workers_of(engine)) if name == "vectorised" else loop.run_cohort
    recorder, state = Recorder(plain, config.seed), start(algorithm, federation, config.seed)
    steps = rounds(algorithm, federation, engine, config.seed, state, recorder, privacy=mechanism)
    for reached, _ in steps:
        state = reached
        if state.server.round % 10 == 0:
            say(f"audit: {state.server.round} of {algorithm.rounds} rounds trained again")
    last = algorithm.broadcast(state.server, list(federation.client_ids)[:1]).shared
    return Replayed(recorder, last, algorithm.selector(state.server))


def audit_messages(replayed: Replayed, federation: Federation, seed: int) -> list[AttributeRow]:
    """Groups guessed from messages: by the server with and without secure aggregation, and by a participant."""
    recorder, last = replayed.recorder, replayed.last
    posteriors = recorder.of_posteriors(federation.client_ids, last)
    seen = [
        ("server", "each user's updates", recorder.of_server()),
        ("server, secure aggregation", "sums over cohorts, and who took part", recorder.of_sums()),
        ("participant", "all broadcasts, and who took part", recorder.of_participant(last)),
    ]
    if posteriors:
        seen.append(("participant", "posteriors of others in the broadcasts", posteriors))
    found = [AttributeRow(who, what, _guessed(tables, federation, seed)) for who, what, tables in seen]
    groups = {client.client_id: client.group for client in federation.partition.seen if client.group is not None}
    counted = [
        ("server, secure aggregation", "sums over cohorts, by counting", recorder.sums),
        ("participant", "all broadcasts, by counting", recorder.changes(last)),
    ]
    for who, what, values in counted:
        rounds_ = sorted(values)
        cohorts = [recorder.cohorts[round_] for round_ in rounds_]
        table = np.stack([values[round_] for round_ in rounds_]) if rounds_ else np.zeros((0, 0))
        found.append(AttributeRow(who, what, guess_from_sums(table, cohorts, groups, seed)))
    return found


def _guessed(tables: Mapping[str, Table], federation: Federation, seed: int) -> Guessed | None:
    groups = {client.client_id: client.group for client in federation.partition.seen}
    ids = sorted(set.intersection(*(set(table) for table in tables.values()))) if tables else []
    ids = [name for name in ids if groups[name] is not None]
    blocks = {block: np.stack([table[name] for name in ids]) for block, table in tables.items()} if ids else {}
    return guess_groups(blocks, [str(groups[name]) for name in ids], seed) if ids else None


def audit_model(replayed: Replayed, federation: Federation, seed: int) -> tuple[list[AttributeRow], Separation | None]:
    """Groups and membership guessed by one who has the released model and pairs of a user.

    A user gives at most as many pairs as the median of the trained users or of the others, whichever is smaller: z of
    more pairs fits better, and the number of pairs alone would tell who trained.

    Returns:
        Rows for pairs without and with their choices, of users who trained and of others; and how well users who
        trained are told from others by how well the model fits their pairs.
    """
    selector, partition = replayed.selector, federation.partition
    both, shots = (partition.seen, partition.unseen), _shots(partition)
    seen, unseen = (_Fits.of(selector, federation, clients, shots) for clients in both)
    rows = []
    for what, of in (("pairs without the choices", "margins"), ("pairs with the choices", "latents")):
        mine, theirs = ({of: getattr(one, of)} for one in (seen, unseen))
        found = guess_groups(mine, seen.groups, seed) if seen.groups else None
        rows.append(AttributeRow("released model", f"{what} of a user who trained", found))
        others = guess_others(mine, seen.groups, theirs, unseen.groups) if unseen.groups else None
        rows.append(AttributeRow("released model", f"{what} of a user who did not", others))
    return rows, separation(seen.likelihood, unseen.likelihood)


def _shots(partition: Partition) -> int | None:
    """The most pairs that a user gives; None for all, where there are none who did not train."""
    sizes = [[len(client.train) for client in some if len(client.train)] for some in (partition.seen, partition.unseen)]
    return int(min(np.median(some) for some in sizes)) if all(sizes) else None


@dataclass(frozen=True, repr=False)
class _Fits:
    """How a selector fits users: of each a row, of those that have a group and pairs."""

    groups: Sequence[str]
    latents: NDArray[np.float64]
    margins: NDArray[np.float64]
    likelihood: NDArray[np.float64]

    __repr__ = short_repr

    @classmethod
    def of(cls, selector: Selector, federation: Federation, clients: Sequence[ClientRows], shots: int | None) -> _Fits:
        clients = [client for client in clients if len(client.train) and client.group is not None]
        if not clients:
            return cls([], *(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(0)))
        posterior = infer_clients(selector, federation, clients, shots=shots)
        places = selector.params.get("prototypes", posterior.means.mean(0))
        margins, likelihood = [], []
        for row, client in enumerate(clients):
            pairs = federation.read(client.train[:shots])
            with torch.no_grad():
                each = selector.head.margins(below("head", selector.params), pairs, places, None).abs()
                fits = choice_log_likelihood(selector.margins(posterior[row], pairs))
            margins.append(torch.cat([each.mean(-1), each.std(-1, correction=0)]).double().numpy())
            likelihood.append(float(fits.mean()))
        latents = torch.cat([posterior.weights, posterior.mean], -1).double().numpy()
        groups = [str(client.group) for client in clients]
        return cls(groups, latents, np.stack(margins), np.array(likelihood))
