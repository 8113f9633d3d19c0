"""The section ``privacy`` of a run: what must hold for one user, and how it is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.core.numbers import Scale
from fedvpa.core.rules import limit


class PrivacyConfig(Config):
    """User-level (ε, δ)-differential privacy of stage 1; off unless ``epsilon`` or ``noise_multiplier`` is given.

    The unit is all that one user holds, in all rounds; neighbouring federations differ by one user more or less.

    Attributes:
        epsilon: ε that the released model may cost in all rounds. The noise is calibrated to it.
        delta: δ; None for N^−1.1, with N the number of clients. Must be below 1/N.
        noise_multiplier: σ, the noise's standard deviation over the most that one client can change. In place of
            ``epsilon``.
        clip: C, the longest change of the weights that one client may make. ``auto``: it follows the quantile
            ``clip_quantile`` of the clients' changes, from noised counts (Andrew et al., arXiv 1905.03871).
        clip_start: Where ``auto`` starts; None for the method's own, which follows from the sizes of what it sends.
        clip_quantile: The share of changes that are not shortened. Their 0.5.
        clip_rate: η_C of ``auto``: a step multiplies C by exp(−η_C (share below − quantile)). Their 0.2.
        statistics_share: a: how long the statistics of one client may be, with its change at length 1. What they take
            makes the noise on the change √(1 + a²) times as large. Chosen by us.
        sampling: ``poisson``: every user takes part in a round by an independent coin of probability cohort/N, which
            amplifies privacy against those who do not see who took part. ``none``: cohorts are drawn as without
            privacy, and ε counts every user as taking part in every round.
        scaling: What users' features are standardised by, since exact sums over users, as in a run without privacy,
            would be a release without noise. ``public``: by ``public_pairs``. ``private``: by clipped sums over all
            users with noise, one more release that is paid for (:mod:`fedvpa.privacy.moments`); in simulations.
            ``none``: not at all. ``auto``: by public pairs where they are given, else not at all.
        scaling_noise: With ``scaling=private``: σ of that release. Chosen by us: at ε = 3, 1,000 users and cohorts of
            100 it makes the noise of the rounds 2% larger.
        feature_clip: With ``scaling=private``: B, the length that a response's features count with at most. None for
            the square root of their number, which is the length where each has a mean square of 1.
        public_pairs: A table of public pairs, whose features are what users' are standardised and turned by.
        seeded: Draw coins and noise from the run's seed, to repeat a simulation. Whoever knows the seed can take the
            noise away, so nothing is private then, and the output says so.
        noise: Who adds the noise. ``server``: the server, to the sum of a round, which it sees before. ``clients``:
            with ``engine.secure_aggregation`` each node adds a share to its integers before they are masked
            (:mod:`fedvpa.privacy.shares`), so that the server has no sum without noise, and ``epsilon_server`` holds
            against it, too. There is then √1.5 to √2 times as much noise as ``noise_multiplier`` says, since nodes may
            drop out.
        honest_share: With ``noise=clients``: of the nodes that must stay to the end of a round
            (``engine.secure_share``), the share that is counted on to tell nobody its noise. At 1 all but one are: each
            node knows its own.
        canaries: m: extra clients of a simulation, each planted by a secret coin, for ``fedvpa audit`` to guess the
            coins (:mod:`fedvpa.privacy.canaries`). The model is for auditing then, not for use.
    """

    epsilon: float | None = Field(default=None, gt=0, le=1e4)
    delta: float | None = Field(default=None, gt=0, lt=1)
    noise_multiplier: Scale | None = None
    clip: float | Literal["auto"] = "auto"
    clip_start: Scale | None = None
    clip_quantile: float = Field(default=0.5, gt=0, lt=1)
    clip_rate: float = Field(default=0.2, gt=0, le=10)
    statistics_share: float = Field(default=0.3, gt=0, le=10)
    sampling: Literal["poisson", "none"] = "poisson"
    scaling: Literal["auto", "public", "private", "none"] = "auto"
    scaling_noise: Scale = 5.0
    feature_clip: Scale | None = None
    public_pairs: Path | None = None
    seeded: bool = False
    noise: Literal["server", "clients"] = "server"
    honest_share: float = Field(default=1.0, gt=0, le=1)
    canaries: int = Field(default=0, ge=0, le=100_000)

    @property
    def on(self) -> bool:
        """Whether anything is noised."""
        return self.epsilon is not None or self.noise_multiplier is not None

    @property
    def scaling_release(self) -> float | None:
        """σ of the release that features are standardised by; None where there is none."""
        return self.scaling_noise if self.on and self.scaling == "private" else None

    @property
    def in_shares(self) -> bool:
        """Whether nodes add the noise."""
        return self.on and self.noise == "clients"

    def check_no_canaries(self, where: str) -> None:
        """Raise ConfigError where canaries are asked for on other machines: what they spoil is for auditing alone."""
        if self.canaries:
            raise ConfigError(
                f"{self.canaries} canaries are asked for with {where}, and canaries spoil a model on purpose, so that "
                "it is fit for an audit and for nothing else.",
                fix="Leave them out, or audit the same settings in a simulation: engine.name=vectorised.",
                where="configuration key 'privacy.canaries'",
            )

    @field_validator("clip", mode="before")
    @classmethod
    def _clip(cls, value: Any) -> Any:
        return limit(value, "Give a number, or auto.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise ConfigError(
                "privacy.epsilon and privacy.noise_multiplier are both given, and each follows from the other.",
                fix="Give one of them.",
                where="configuration key 'privacy'",
            )
        if self.scaling == "public" and self.public_pairs is None:
            raise ConfigError(
                "features are to be standardised by public pairs, and none are given.",
                fix="Give privacy.public_pairs=FILE, or another way.",
                where="configuration key 'privacy.scaling'",
            )
        if self.scaling in ("private", "none") and self.public_pairs is not None:
            raise ConfigError(
                f"scaling={self.scaling} reads no public pairs, and some are given.",
                fix="Leave privacy.public_pairs out, or give privacy.scaling=public.",
                where="configuration key 'privacy.scaling'",
            )
        if self.scaling == "private" and not self.on:
            raise ConfigError(
                "features are to be standardised by noised sums, and it is not said how private the run is.",
                fix="Give privacy.epsilon or privacy.noise_multiplier too.",
                where="configuration key 'privacy.scaling'",
            )
        if self.noise == "clients" and not self.on:
            raise ConfigError(
                "clients are to add noise, and it is not said how much.",
                fix="Give privacy.epsilon or privacy.noise_multiplier too.",
                where="configuration key 'privacy.noise'",
            )
        if self.canaries and not self.on:
            raise ConfigError(
                f"{self.canaries} canaries are asked for, and without privacy there is no length that they could have.",
                fix="Give privacy.epsilon too; to see what canaries show without noise, privacy.noise_multiplier=1e-6.",
                where="configuration key 'privacy.canaries'",
            )
        return self
