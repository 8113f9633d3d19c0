"""The noise of a policy that clients train: the mechanism of stage 1, over adapters, with a key and budget of its own.

The section ``privacy`` of the run holds for it: the same ε (or σ), δ, sampling and quantile. Two things are of a policy
alone. Its clip: ``privacy.clip`` is the length of a selector's change, so a policy takes ``policy.clients.clip_norm``
where that is a number, and otherwise starts where its method says and follows the quantile. And its key, since coins
and noise that two trainings share would hide nothing.

Both trainings are of the same users, and compose: what selector and policy release together is stated beside what the
policy releases. Where the policy's training reads the selector, the first is the figure of the policy, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvpa.algorithms.policy_method import PolicyTask
from fedvpa.algorithms.registry import POLICY_METHODS, make
from fedvpa.alignment.federated_job import text_engine
from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.engines.private import Ledger, Privacy
from fedvpa.privacy.accounting import Releases, epsilon_composed
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import Key, read_key, write_key
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.noise import SEEDED, said, summary, terms_of

KEY_FILE = "policy-privacy.key"
"""The name of its key, beside the checkpoint."""

COVERED = (
    "all that one user holds, in all rounds of this training: the sums that the server releases, so the adapters, the "
    "policy and all that is made of it without users' data"
)
NOT_COVERED = (
    "what a server sees that receives each update by itself; who takes part, for a server that sees it; how the policy "
    "is judged on users' held-out pairs; other trainings on the same users; timing and floating-point noise"
)


@dataclass(frozen=True, repr=False)
class PolicyNoise:
    """The noise of one policy.

    Attributes:
        privacy: The mechanism.
        selector: What stage 1 releases of the same users: its ``noise_multiplier``, ``rate``, ``rounds``, ``delta``
            and ``most_participations``.
        reads_selector: Whether the policy's training reads the selector.
    """

    privacy: Privacy
    selector: Mapping[str, Any]
    reads_selector: bool = False

    __repr__ = short_repr

    def keep(self, run: RunFolder) -> None:
        """Write the key of a training that begins; not one that follows from the seed."""
        if not self.privacy.config.seeded:
            write_key(key_file(run), self.privacy.key)

    def spent(self, ledger: Ledger, client_ids: tuple[str, ...]) -> dict[str, Any]:
        """The key ``privacy`` of a policy in ``metrics.json``, said in a line, too.

        That is what :func:`fedvpa.runs.noise.summary` says, of the policy; under ``with_selector`` both figures of
        selector and policy together, and ``reads_selector``.
        """
        found = summary(self.privacy, ledger, client_ids) | {"covered": COVERED, "not_covered": NOT_COVERED}
        both = composed(found, self.selector)
        if self.reads_selector:
            found |= both
        found |= {"with_selector": both, "reads_selector": self.reads_selector}
        say(said(found))
        return found


def composed(policy: Mapping[str, Any], selector: Mapping[str, Any]) -> dict[str, Any]:
    """Both figures of two trainings together, at the smaller δ.

    ``epsilon_server`` is that of a user who took part most in both: nobody spent more.

    Args:
        policy: ``noise_multiplier``, ``rate``, ``rounds``, ``delta`` and ``most_participations``.
        selector: The same, and ``scaling_noise`` where users' features were standardised by a release of its own.
    """
    delta = min(policy["delta"], selector["delta"])
    both = policy, selector
    sums = [Releases(one["noise_multiplier"], one["rate"], one["rounds"]) for one in both]
    seen = [Releases(one["noise_multiplier"], 1.0, one["most_participations"]) for one in both]
    once = [Releases(selector["scaling_noise"], 1.0, 1)] if selector.get("scaling_noise") else []
    return {
        "delta": delta,
        "epsilon_released": epsilon_composed([*sums, *once], delta),
        "epsilon_server": epsilon_composed([*seen, *once], delta),
    }


def policy_noise(
    config: RunConfig, method: str, task: PolicyTask, clients: int, selector: Mapping[str, Any], key: Key | None = None
) -> PolicyNoise | None:
    """The noise of a policy; None where the run has none.

    Args:
        config: The run.
        method: What trains the policy: its name in ``POLICY_METHODS``.
        task: The run, as the method reads it.
        clients: N.
        selector: What stage 1 releases; see :func:`selector_released`.
        key: That of a training that goes on; None for a new one.

    Raises:
        ConfigError: If the method cannot be trained with noise, or the federation is too small for it.
    """
    if not config.privacy.on:
        return None
    check_policy(config, method, task)
    entry = POLICY_METHODS.get(method)
    cohort, releases = entry.cohort(task), entry.algorithm(task).rounds * entry.requests
    own = clips_of(config.privacy, task)
    engine = text_engine(task.settings, cohort)
    terms = terms_of(own, engine, clients, releases, entry.cohort_key)
    if own.seeded:
        say(SEEDED)
        key = Key.of_seed(config.seed, "policy")
    return PolicyNoise(Privacy(own, terms, key or Key.new()), selector, entry.reads_selector(task))


def check_policy(config: RunConfig, method: str, task: PolicyTask) -> None:
    """Raise ConfigError if a method whose clients train a policy cannot be trained with the noise of a run.

    Args:
        config: The run.
        method: Its name in ``POLICY_METHODS``.
        task: The run, as the method reads it.
    """
    if not config.privacy.on:
        return
    config.privacy.check_no_canaries("a policy that clients train")
    if config.privacy.in_shares:
        raise ConfigError(
            "nodes add the noise of a selector (privacy.noise=clients), and of a policy that clients train none does.",
            fix="Align by the selector, on public prompts; or train another run with privacy.noise=server.",
            where="configuration key 'privacy.noise'",
        )
    obstacle = POLICY_METHODS.get(method).private_obstacle(task)
    if obstacle:
        raise ConfigError(
            f"{method!r} cannot be trained with noise: {obstacle}.",
            fix="Use another method, or train another run without the section privacy.",
            where="configuration key 'privacy'",
        )


def clips_of(privacy: PrivacyConfig, task: PolicyTask) -> PrivacyConfig:
    """The section with the clip of adapters: ``policy.clients.clip_norm`` where that is a number."""
    given = task.settings.clients.clip_norm
    clip = given if isinstance(given, float) else "auto"
    # No features are read, so none are standardised by a release of their own.
    return privacy.model_copy(update={"clip": clip, "clip_start": None, "scaling": "none", "public_pairs": None})


def selector_released(config: RunConfig, clients: int, found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What stage 1 of a run releases of its users; of one that is not finished, all that it may release.

    Args:
        config: The run.
        clients: N.
        found: What its ``metrics.json`` says under ``privacy``; None if it is not finished.
    """
    rounds = make(config.method, config.method_config).rounds
    if found is not None and found["rounds"] >= rounds:
        return found
    terms = terms_of(config.privacy, config.engine, clients, rounds)
    most: dict[str, Any] = {"rounds": rounds, "most_participations": rounds, "scaling_noise": terms.once}
    return {"noise_multiplier": terms.noise_multiplier, "rate": terms.rate, "delta": terms.delta, **most}


def key_of_policy(config: RunConfig, run: RunFolder) -> Key | None:
    """The key of a policy whose training goes on; None where it has none.

    Raises:
        RunError: If the run has lost it.
    """
    return read_key(key_file(run)) if config.privacy.on and not config.privacy.seeded else None


def key_file(run: RunFolder) -> Path:
    """Where the key of a run's policy is."""
    return run.checkpoint.with_name(KEY_FILE)
