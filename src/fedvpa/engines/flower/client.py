"""A node: the ClientApp that trains the users whose pairs it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Protocol, cast

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedvpa.algorithms.base import Algorithm, CohortUpdate, Transform
from fedvpa.algorithms.server.robust import Part
from fedvpa.core.errors import FedvpaError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.data.report import DataReport, say_report
from fedvpa.engines import loop, vectorised
from fedvpa.engines.federation import Federation
from fedvpa.engines.flower import secure_node
from fedvpa.engines.flower.records import (
    Introduction,
    Request,
    arrays,
    pack_introduction,
    pack_private,
    pack_reply,
    tree_of,
    unpack_private,
    unpack_request,
)
from fedvpa.engines.flower.rotation import ACTION, pack_moment, unpack_question
from fedvpa.engines.flower.secure_records import SECURE, SETUP, SHARE, UNMASK
from fedvpa.engines.runner import CohortTask, Holder, unchanged
from fedvpa.features.standardise import Moments
from fedvpa.privacy.mechanism import is_told
from fedvpa.selector.rotation import name_of


class Devices(Protocol):
    """Where a node keeps its clients' private state."""

    def load(self, context: Context, round_: int) -> dict[str, Tree]:
        """The state as it was before round ``round_``."""

    def save(self, context: Context, private: dict[str, Tree], round_: int) -> None:
        """Remember the state after round ``round_``."""


class InContext:
    """In ``context.state``, which Flower keeps on the node for as long as a run lasts."""

    def load(self, context: Context, round_: int) -> dict[str, Tree]:
        """What was saved last: within one run no round is repeated."""
        return unpack_private(context.state)

    def save(self, context: Context, private: dict[str, Tree], round_: int) -> None:
        """Replace what was there."""
        for name, record in pack_private(private).items():
            context.state[name] = record


def _nothing() -> None:
    """There is nothing to check."""


@dataclass(frozen=True, repr=False)
class Node:
    """What a node needs to train.

    Attributes:
        algorithm: What each of its clients does.
        holder: What its clients hold.
        devices: Where their private state is kept.
        left_out: The users whose pairs are too few to learn from; the node says so in its own log.
        report: What of its data is not used; the node says that there too.
        transform: What is done to each client's update before it leaves the client.
        reads: How its texts are read; see :class:`~fedvpa.engines.flower.records.Introduction`.
        pairs: Client id → its number of training pairs, where the holder would have to load a language model to tell.
        check: Called before the node introduces itself; raises if it cannot take part.
        private: Whether the run's sums are noised: the node then sends no sums of its features and no numbers of pairs,
            and trains for a server alone that says within which norms an update may leave.
        adds_noise: Whether the run's nodes add the noise: the node then trains for a server alone that asks for it, and
            draws it from the operating system's generator.
    """

    algorithm: Algorithm[Any, Any]
    holder: Holder[Any]
    devices: Devices = field(default_factory=InContext)
    left_out: tuple[str, ...] = ()
    report: DataReport = field(default_factory=DataReport)
    transform: Transform = unchanged
    reads: str = ""
    pairs: Mapping[str, int] | None = None
    check: Callable[[], None] = _nothing
    private: bool = False
    adds_noise: bool = False

    __repr__ = short_repr


class NodeError(FedvpaError):
    """What a server is told of an error on a node of a deployment: no id, path or text of the node."""


@contextmanager
def discreet() -> Iterator[None]:
    """Say what goes wrong in the node's own log, and let the server know only that something did.

    Raises:
        NodeError: In place of any error, which may hold user ids, paths and texts.
    """
    try:
        yield
    except NodeError:
        raise
    except Exception as error:
        say(f"fedvpa: {error}")
        # Flower logs the traceback on the node; what was foreseen needs none.
        cause = None if isinstance(error, FedvpaError | OSError) else error
        raise NodeError(f"the node cannot go on ({type(error).__name__}); its own log says why") from cause


def client_app(load: Callable[[Context], Node], guard: Callable[[], AbstractContextManager[None]]) -> ClientApp:
    """A ClientApp around the same functions that the other engines call.

    Private state (such as mixture weights) stays on the node.

    Args:
        load: Gives the node's algorithm and pairs; called for each message, so it should remember what it loaded.
        guard: Stands around each message: ``discreet`` in a deployment, ``nullcontext`` in a simulation.
    """
    app = ClientApp()

    @app.query()
    def introduce(message: Message, context: Context) -> Message:
        with guard():
            return Message(pack_introduction(introduction(load(context))), reply_to=message)

    @app.query(ACTION)
    def rotate(message: Message, context: Context) -> Message:
        with guard():
            standardiser, names = unpack_question(message.content)
            node = load(context)
            if node.private:
                raise FedvpaError("the server asks for second moments, and the run's section privacy lets none leave.")
            federation = cast(Federation, node.holder)
            scaling = replace(federation.scaling, standardiser=standardiser)
            moment = replace(federation, scaling=scaling).second_moment(names)
            return Message(pack_moment(moment), reply_to=message)

    @app.query(SETUP)
    def set_up(message: Message, context: Context) -> Message:
        with guard():
            return Message(secure_node.set_up(context, message.content), reply_to=message)

    @app.query(SHARE)
    def deal(message: Message, context: Context) -> Message:
        with guard():
            return Message(secure_node.deal(context, message.content), reply_to=message)

    @app.query(UNMASK)
    def unmask(message: Message, context: Context) -> Message:
        with guard():
            return Message(secure_node.unmask(context, message.content), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        with guard():
            return answer(message, context)

    def answer(message: Message, context: Context) -> Message:
        node, request = load(context), unpack_request(message.content)
        if node.private and not is_told(request.broadcast.shared):
            raise FedvpaError("the server does not say how long an update may be, and the run has a section privacy.")
        if node.adds_noise and not secure_node.asks_for_noise(message.content):
            raise FedvpaError(
                "the server asks for sums without the noise of nodes, and the run has privacy.noise=clients."
            )
        if node.algorithm.holds == "features":
            torch.set_num_threads(1)
        round_, holder = request.broadcast.round, node.holder
        if node.algorithm.holds == "features":
            holder = scaled(cast(Federation, holder), request, context)
        private = {**(request.private or {}), **node.devices.load(context, round_)}
        names = request.clients
        task = CohortTask(
            node.algorithm,
            request.broadcast,
            holder,
            names,
            names,
            private,
            request.seed,
            node.transform,
            request.single,
        )
        run = vectorised.run_clients if node.algorithm.holds == "features" else loop.run_cohort
        parts, kept = run(task) if names else ([], {})
        node.devices.save(context, {**private, **kept}, round_)
        told = None if request.private is None else kept
        if SECURE in message.content:
            updates, shared = [part.update for part in parts], request.broadcast.shared
            hidden = secure_node.Answer(updates, shared, round_, request.seed, told)
            return Message(secure_node.hide(context, message.content, hidden), reply_to=message)
        if not request.single:
            told_norms = is_told(request.broadcast.shared)
            counted = [part for part in parts if not told_norms or _finite(part)] or parts
            parts = [Part(request.clients, reduce(CohortUpdate.__add__, (part.update for part in counted)))]
        return Message(pack_reply(parts, request.clients, request.codec, told), reply_to=message)

    return app


def _finite(part: Part) -> bool:
    """Whether an update is all finite numbers.

    With noise one that is not is left out of its node's sum. The server would reject that sum with all users of the
    node, so that one user would decide whether the others count.
    """
    return all(bool(leaf.isfinite().all()) for leaf in part.update.sums.values())


def scaled(federation: Federation, request: Request, context: Context) -> Federation:
    """What a node's clients hold, scaled as the server says; as it is in simulation, where the node knows.

    A rotation comes once; from then on it is kept in ``context.state``.

    Raises:
        FedvpaError: If the server names a rotation that the node does not have: it then sends it again.
    """
    standardiser, rotation = request.scaling, request.rotation
    if standardiser is None:
        return federation
    if rotation is not None:
        context.state["rotation"] = arrays({"rotation": torch.from_numpy(rotation)})
    elif request.turned and "rotation" in context.state:
        rotation = tree_of(context.state.array_records["rotation"])["rotation"].numpy()
    if request.turned and (rotation is None or name_of(rotation) != request.turned):
        raise FedvpaError("the node has lost the rotation of the features, and is sent it again in its next round.")
    scaling = replace(federation.scaling, standardiser=standardiser, rotation=rotation if request.turned else None)
    return replace(federation, scaling=scaling)


def introduction(node: Node) -> Introduction:
    """What a node says about itself; whom it leaves out it says in its own log alone."""
    say_report(node.report)
    if node.left_out:
        names = ", ".join(map(repr, node.left_out))
        say(f"left out, with too few pairs to learn from: {names}. The server is told how many, not who.")
    node.check()
    holder = node.holder
    clients = node.pairs or {name: holder.size(name) for name in holder.client_ids}
    moments = holder.moments if isinstance(holder, Federation) and not node.private else Moments.zero(0)
    if node.private:
        clients = dict.fromkeys(clients, 1)  # every user counts alike
        moments = Moments.zero(cast(Federation, holder).store.chosen.shape[1])
    return Introduction(clients, moments, node.reads, len(node.left_out))
