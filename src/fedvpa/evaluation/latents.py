"""Does z say who a client is? Diagnostics of posteriors and prototypes, and an alarm when z says nothing.

True groups are read here, after training, and nowhere before. What cannot be computed (a silhouette with a single
group, say) is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from fedvpa.core.errors import DataError
from fedvpa.core.seeds import entropy
from fedvpa.evaluation.latent_alarms import (
    ACTIVE_VARIANCE,
    collapse_alarms,
    group_alarms,
    match_alarms,
    prototype_alarms,
)
from fedvpa.objectives.gaussian import standard_normal_kl


@dataclass(frozen=True, slots=True)
class LatentReport:
    """What the posteriors of N clients look like in k dimensions, with M prototypes.

    Attributes:
        clients: N.
        kl_per_dimension: [k] KL of the posteriors to N(0, 1), mean over clients, in nats.
        kl: Their sum.
        active_units: Dimensions whose posterior mean varies by more than ``ACTIVE_VARIANCE`` over clients.
        information: An upper bound, in nats, on the mutual information between a client's identity and its z.
        silhouette: Of the posterior means under the true groups, in [-1, 1].
        posterior_ari: Adjusted Rand index of k-means on the posterior means against the true groups.
        prototype_silhouette: Of the posterior means under the prototype labels.
        prototype_ari: Adjusted Rand index of the prototype labels against the true groups.
        prototype_gram: [M, M] cosines of the prototypes.
        prototype_counts: [M] clients per prototype.
        prior_components: Effective number of prior components, exp of the weights' entropy, mean over clients.
        alarms: Signs that z says nothing of its client, or that a name for it means nothing, in words; empty if there
            is none. See :mod:`fedvpa.evaluation.latent_alarms`.
    """

    clients: int
    kl_per_dimension: list[float]
    kl: float
    active_units: int
    information: float
    silhouette: float | None
    posterior_ari: float | None
    prototype_silhouette: float | None
    prototype_ari: float | None
    prototype_gram: list[list[float]] | None
    prototype_counts: list[int] | None
    prior_components: float | None
    alarms: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self) | {"alarms": list(self.alarms)}


def diagnose(
    means: Float[np.ndarray, "n k"],
    log_vars: Float[np.ndarray, "n k"],
    groups: Sequence[str] | None = None,
    prototypes: Float[np.ndarray, "m k"] | None = None,
    labels: Sequence[int] | None = None,
    prior_weights: Float[np.ndarray, "n j"] | None = None,
    *,
    typical: bool = True,
) -> LatentReport:
    """Diagnose the posteriors N(mean, exp(log_var)) of clients.

    Args:
        means: Posterior means.
        log_vars: Posterior log-variances.
        groups: The clients' true groups, where known.
        prototypes: The prototypes, where the method has any.
        labels: The prototype assigned to each client; needs ``prototypes``.
        prior_weights: Each client's weights over the components of its mixture prior; rows sum to one.
        typical: Whether prototypes mean anything to the method; otherwise nothing about them is an alarm.

    Raises:
        DataError: For no client, values that are not finite, or lengths that do not fit.
    """
    _check(means, log_vars, groups, prototypes, labels, prior_weights)
    kl = kl_per_dimension(means, log_vars)
    active = int((means.var(axis=0) > ACTIVE_VARIANCE).sum())
    nats = information_bound(means, log_vars)
    ari = None if groups is None or labels is None else float(adjusted_rand_score(groups, labels))
    counts = None if labels is None or prototypes is None else np.bincount(labels, minlength=len(prototypes)).tolist()
    alarms = collapse_alarms(active, nats, len(means), groups)
    if labels is not None and prototypes is not None and typical:
        alarms += prototype_alarms(labels, len(prototypes), groups) or match_alarms(ari, groups)
    return LatentReport(
        clients=len(means),
        kl_per_dimension=kl.tolist(),
        kl=float(kl.sum()),
        active_units=active,
        information=nats,
        silhouette=silhouette(means, groups),
        posterior_ari=clustering_agreement(means, groups),
        prototype_silhouette=silhouette(means, labels),
        prototype_ari=ari,
        prototype_gram=None if prototypes is None else gram(prototypes).tolist(),
        prototype_counts=counts,
        prior_components=None if prior_weights is None else float(effective_components(prior_weights).mean()),
        alarms=tuple(alarms or group_alarms(means, groups)),
    )


def kl_per_dimension(means: Float[np.ndarray, "n k"], log_vars: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """KL(N(mean, exp(log_var)) ‖ N(0, 1)) of each dimension, mean over clients, in nats; the loss's own function."""
    mean, log_var = (torch.as_tensor(values, dtype=torch.float64).unsqueeze(-1) for values in (means, log_vars))
    result: NDArray[np.float64] = standard_normal_kl(mean, log_var).mean(dim=0).numpy()
    return result


def information_bound(means: Float[np.ndarray, "n k"], log_vars: Float[np.ndarray, "n k"]) -> float:
    """An upper bound on the mutual information of client and z, in nats.

    I = H(z) - H(z | client). A Gaussian of the same variance has at least the entropy of z in each dimension, and the
    sum over dimensions is at least the joint entropy, so that
    I ≤ ½ Σ_d [log(Var μ_d + mean σ_d²) - mean log σ_d²]. Unlike the KL it is zero when all clients share one
    posterior, however narrow: a variance cap alone makes the KL large.
    """
    spread = np.log(means.var(axis=0) + np.exp(log_vars).mean(axis=0)) - log_vars.mean(axis=0)
    return max(0.0, float(spread.sum() / 2))


def silhouette(means: Float[np.ndarray, "n k"], labels: Sequence[str] | Sequence[int] | None) -> float | None:
    """The mean silhouette of the means under the labels; None unless there are 2 to N - 1 different labels."""
    if labels is None or not 2 <= len(set(labels)) < len(labels):
        return None
    return float(silhouette_score(means, np.asarray(labels)))


def clustering_agreement(means: Float[np.ndarray, "n k"], groups: Sequence[str] | None) -> float | None:
    """Adjusted Rand index of k-means on the means, with as many clusters as groups, against the groups.

    None without groups, with a single one, or if fewer points than groups are distinct.
    """
    if groups is None or not 2 <= len(set(groups)) <= len(np.unique(means, axis=0)):
        return None
    state = entropy(0, "evaluation", "kmeans") % 2**32
    found = KMeans(len(set(groups)), n_init=10, random_state=state).fit_predict(means)
    return float(adjusted_rand_score(groups, found))


def gram(prototypes: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m m"]:
    """The cosines between prototypes; a zero prototype has cosine 0 with every other and with itself."""
    lengths = np.linalg.norm(prototypes, axis=1, keepdims=True)
    unit = prototypes / np.where(lengths > 0, lengths, 1.0)
    product: NDArray[np.float64] = unit @ unit.T
    return product


def effective_components(weights: Float[np.ndarray, "n j"]) -> Float[np.ndarray, " n"]:
    """The exponential of each row's entropy: j for equal weights, 1 for a single component."""
    logs = np.log(np.where(weights > 0, weights, 1.0))
    result: NDArray[np.float64] = np.exp(-(weights * logs).sum(axis=1))
    return result


def _check(
    means: NDArray[np.float64],
    log_vars: NDArray[np.float64],
    groups: Sequence[str] | None,
    prototypes: NDArray[np.float64] | None,
    labels: Sequence[int] | None,
    prior_weights: NDArray[np.float64] | None,
) -> None:
    if means.ndim != 2 or len(means) == 0 or means.shape != log_vars.shape:
        raise DataError(
            f"posterior means {means.shape} and log-variances {log_vars.shape} are not two equal tables [n, k]."
        )
    arrays = {"means": means, "log-variances": log_vars, "prototypes": prototypes, "prior weights": prior_weights}
    for name, values in arrays.items():
        if values is not None and not np.isfinite(values).all():
            raise DataError(f"some {name} are not finite numbers.", fix="The training that made them has diverged.")
    for name, rows in (("groups", groups), ("prototype labels", labels), ("prior weights", prior_weights)):
        if rows is not None and len(rows) != len(means):
            raise DataError(f"there are {len(rows)} {name} for {len(means)} clients.")
    if labels is not None and (prototypes is None or not 0 <= min(labels) <= max(labels) < len(prototypes)):
        raise DataError("prototype labels must be row numbers of the prototypes.", fix="Give both.")
    if prototypes is not None and prototypes.shape[1:] != means.shape[1:]:
        raise DataError(f"prototypes {prototypes.shape} and means {means.shape} differ in dimension.")
    if prior_weights is not None and not np.allclose(prior_weights.sum(axis=1), 1.0, atol=1e-4):
        raise DataError("prior weights of some client do not sum to one.")
