"""``informed``: the models of the true groups, for users who do not say which group they are in.

The yardstick between ``global`` and ``oracle``. ``oracle`` is told who belongs together and who a user is; here
training is told the first, and the second is inferred from a user's own pairs by Bayes' rule. A method that has to
infer both cannot be expected to pass it.

**Heads.** One linear head for each true group, by ridge-logistic regression expanded around zero. With s = Σ w Δh the
score of n = Σ w pairs, where w are importance weights, the log-likelihood of a head θ is n log ½ + ½ θ·s − ⅛ θᵀ(nC)θ
up to third order. Its maximum under the prior N(0, I/τ) is

    θ_m = ½ (n_m C/4 + τ I)⁻¹ S_m,        C = Σ w Δh Δhᵀ / Σ w over all clients.

All of it are sums over clients, so one round that asks everybody is exact. τ is the same for all groups and maximises
the evidence of the sums (MacKay, Neural Computation 4, 1992): along an eigenvector of C with eigenvalue e, ½S_m is
N(0, a²/τ + a) with a = n_m e/4. It is found on the server, from training pairs.

**Membership.** A client is not compared with heads that were fitted to it: its own score, its own number of pairs and
its own membership are taken out of the sums first. Since they add up, this is exactly training without the client,
but for C, which reads no label, and τ, one number from all. Then r_m ∝ π_m Π_pairs σ(θ_m·Δh), with π by Laplace's rule
of succession. A user who did not train has nothing to take out.

**Rewards** are those of the heads of all clients, weighted by r. Like those of every method, they know the user's
training pairs, and no pair that is tested.

Not a paper's method. Clients send their sums under their group's name, so it is no method for real federations.
Whatever ``selector.head`` is, these heads are linear. Limits on clients (``server.clip_norm`` and its like) do not act
on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.empirical_bayes import best_precision
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.prior import isotropic
from fedvpa.selector.refinement import at_prototypes, evidence
from fedvpa.selector.selector import Selector

LARGEST = 1e12
"""The bound of an honest sum, per pair. Chosen by us: far above the square of any scaled feature."""


@dataclass(frozen=True, repr=False)
class Sums:
    """What all clients sent, added up, and what follows from it.

    Attributes:
        scores: Σ w Δh of each group, shape [m, d].
        pairs: Σ w of each group, shape [m].
        members: Clients with pairs of each group, shape [m].
        moment: C, shape [d, d], or its diagonal [d] where features are turned so that it is diagonal.
        precision: τ.
        round: Rounds completed, 0 or 1.
    """

    scores: Float[Tensor, "m d"]
    pairs: Float[Tensor, " m"]
    members: Float[Tensor, " m"]
    moment: Float[Tensor, "*rows d"]
    precision: Float[Tensor, ""]
    round: int = 0

    __repr__ = short_repr

    @property
    def params(self) -> Tree:
        """Nothing moves by changes."""
        return {}

    @property
    def final(self) -> Tree:
        """The heads of all clients."""
        return {"heads": self.heads(self.scores, self.pairs)}

    @cached_property
    def spectrum(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """The eigenvalues of C and its eigenvectors as columns, float64."""
        moment = self.moment.double()
        if moment.ndim == 1:
            return moment, torch.eye(len(moment), dtype=moment.dtype)
        values, basis = torch.linalg.eigh((moment + moment.mT) / 2)
        return values.clamp(min=0), basis

    def heads(self, scores: Float[Tensor, "*clients m d"], pairs: Float[Tensor, "*clients m"]) -> Tensor:
        """θ for these sums in place of the state's own, shape [*clients, m, d]."""
        values, basis = self.spectrum
        curvature = pairs.double().unsqueeze(-1) * values / 4 + self.precision
        return (0.5 * ((scores.double() @ basis) / curvature) @ basis.mT).float()


@dataclass(frozen=True)
class Informed(Plain):
    """Heads of the true groups, membership by Bayes' rule. See the module's docstring."""

    config: MethodConfig
    name: str = "informed"
    reads_groups: bool = True
    personal: bool = False
    has_prototypes: bool = True
    rounds: int = 1
    state_type: type[Sums] = Sums

    def __post_init__(self) -> None:
        """The yardstick is exact: nobody's sums are cut."""
        server = self.config.server.model_copy(update={"rule": "mean", "clip_norm": None, "max_weight": None})
        object.__setattr__(self, "config", self.config.model_copy(update={"server": server}))

    @property
    def _is_diagonal(self) -> bool:
        """Whether features are turned already, so that C is diagonal and a client sends its diagonal alone."""
        return self.config.selector.rotation != "none"

    def init(self, setting: FeatureSetting, seed: int) -> Sums:
        """Sums of nobody."""
        groups, size = len(setting.groups), setting.dimension
        zeros = torch.zeros(groups)
        moment = torch.zeros(size if self._is_diagonal else (size, size))
        return Sums(torch.zeros(groups, size), zeros, zeros, moment, torch.ones(()))

    def asks_everyone(self, state: Sums) -> bool:
        """Always: one round has all clients."""
        return True

    def broadcast(self, state: Sums, client_ids: Sequence[str]) -> Broadcast:
        """Nothing is sent to clients."""
        return Broadcast({}, {}, state.round)

    def expected(self, state: Sums) -> Expected:
        """The sums of one client."""
        groups, size = state.scores.shape
        return Expected(
            {},
            {
                "scores": Bounds((groups, size), -LARGEST, LARGEST, per="weight"),
                "pairs": Bounds((groups,), 0.0, 1.0, per="weight"),
                "members": Bounds((groups,), 0.0, 1.0),
                "moment": Bounds(tuple(state.moment.shape), -LARGEST, LARGEST, per="weight"),
            },
        )

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The folds, which no client uses."""
        return draw(seed, broadcast.round, client_id, size, self.config.local)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """The client's sums, under its true group; it keeps what it sent."""
        group, weighted = private["group"], held.weight.unsqueeze(-1) * held.delta
        weight = held.weight.sum(-1)
        own = {
            "scores": group.unsqueeze(-1) * weighted.sum(-2).unsqueeze(-2),
            "pairs": group * weight.unsqueeze(-1),
            "members": group * (weight > 0).to(group.dtype).unsqueeze(-1),
        }
        moment = (weighted * held.delta).sum(-2) if self._is_diagonal else weighted.mT @ held.delta
        return ClientUpdate({"weight": weight, "moment": moment, **own}), own

    def store_private(self, private: Tree, tensors: Tree, received: Tree) -> Tree:
        """What was sent."""
        return tensors

    def server_update(self, state: Sums, update: CohortUpdate) -> tuple[Sums, dict[str, float]]:
        """Add up, and find τ."""
        sums = update.sums
        if not sums or not sums["weight"] > 0:
            return replace(state, round=state.round + 1), {}
        moment = sums["moment"] / sums["weight"]
        found = Sums(sums["scores"], sums["pairs"], sums["members"], moment, torch.ones(()), state.round + 1)
        values, basis = found.spectrum
        curvature = sums["pairs"].double().unsqueeze(-1) * values / 4
        precision = best_precision(0.5 * sums["scores"].double() @ basis, curvature)
        return replace(found, precision=precision.float()), {}

    def selector(self, state: Sums) -> Selector:
        """The heads as prototypes of a head that z is the whole of; Bayes' rule between them."""
        groups, size = state.scores.shape
        shape = self.config.selector.model_copy(update={"head": "linear", "latent": size, "prototypes": groups})
        params = {"head.base": torch.zeros(size), "prototypes": state.final["heads"]}
        prior = log_prior(state.members)
        return Selector(shape, InferenceConfig(method="responsibilities"), params, prior, torch.ones(()))

    def infer_members(self, state: Sums, context: Pairs, private: Sequence[Tree]) -> Posterior:
        """Membership of clients, each without its own part in the heads; see :class:`InfersMembers`."""

        def without(name: str, total: Tensor) -> Tensor:
            return torch.stack([total - one[name] if name in one else total for one in private])

        selector = self.selector(state)
        heads = state.heads(without("scores", state.scores), without("pairs", state.pairs))
        likelihood = evidence(HEADS["linear"], {"base": torch.zeros(heads.shape[-1])}, context, heads)
        prior = isotropic(
            log_prior(without("members", state.members)), selector.prototypes, selector.inference.component_log_var
        )
        return at_prototypes(likelihood, prior, selector.gain)


def log_prior(members: Float[Tensor, "*clients m"]) -> Float[Tensor, "*clients m"]:
    """The prior over groups from their members, each counted once more than it has (Laplace's rule of succession)."""
    return torch.log_softmax((members + 1).log(), dim=-1)
