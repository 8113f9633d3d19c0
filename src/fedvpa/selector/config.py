"""The shape of a selector. Defaults cite the paper (FedVPA-GP, arXiv 2605.30873) or say why they differ."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.core.numbers import MOST_WIDE, LogVariance, Margin, Scale, Size

Rotation = Literal["none", "full"] | Size
"""No rotation, all directions, or so many of the leading ones."""

HeadKind = Literal["bilinear", "linear", "mlp", "residual"]


class EncoderConfig(Config):
    """The amortised posterior q(z | context pairs).

    Attributes:
        pair_widths: Hidden widths of the MLP that embeds each Δh. The paper has (512, 256, 128); the default
            is small because refinement, not the encoder, decides z; see ``benchmarks/ablation.py``.
        set_widths: Hidden widths of the MLP on the mean embedding. The paper has (512, 256, 128).
        dropout: Dropout rate on the hidden layers of the pair MLP. The paper has 0.1; 0 by default because averaging
            over clients already regularises and the default encoder is small.
        max_log_var: Cap on log σ². The paper's −4.
    """

    pair_widths: tuple[Size, ...] = Field(default=(32,), min_length=1)
    set_widths: tuple[Size, ...] = ()
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    max_log_var: LogVariance = -4.0


class SelectorConfig(Config):
    """A preference model r(h; z).

    Attributes:
        head: ``bilinear`` (r = w₀ᵀh + zᵀWh), ``mlp`` (the same on an MLP trunk of h), ``residual`` (the paper's: z
            adds a bias to the answer's position and cannot see the responses), or ``linear`` (r = (w₀ + z)ᵀh, for z as
            long as h: what ``local`` learns).
        latent: k, the size of z. The paper's 32.
        prototypes: M. The paper's 2.
        prototype_scale: Norm of a prototype. The paper has 5; 1 by default because under SGD the learning rate of W
            grows with its square, so that 1 gives w₀ and W the same.
        head_scale: Standard deviation of the initial W, times √d. Small, so that the latent starts without effect.
        trunk_width: Width of the MLP trunk of ``mlp``. Chosen by us.
        base_dropout: Probability of leaving out the z-free part of a logit in training (the paper's p_logit: 0.5 for
            Qwen2-0.5B, 0 for Gemma-2B).
        normalise: ``rms`` brings each standardised response feature to norm √d, so that no single outlying response
            dominates a client's evidence; ``none`` leaves it as it is. Measured by ``benchmarks/ablation.py``.
        rotation: ``full`` turns the scaled features into the basis in which the differences of responses are
            uncorrelated, and a number keeps at most so many leading ones; see :mod:`fedvpa.selector.rotation`.
            The paper has none. 64 by default, chosen by us: on validation splits of HH-RLHF objectives as accurate as
            all 384 to 768 directions, and a sixth to a twelfth of the traffic.
        encoder: The amortised posterior.
    """

    head: HeadKind = "bilinear"
    latent: Size = 32
    prototypes: Size = 2
    prototype_scale: Scale = 1.0
    head_scale: Margin = 0.02
    trunk_width: Size = 64
    base_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    normalise: Literal["rms", "none"] = "rms"
    rotation: Rotation = 64
    encoder: EncoderConfig = EncoderConfig()

    @field_validator("rotation", mode="before")
    @classmethod
    def _names_a_rotation(cls, value: Any) -> Any:
        if value in ("none", "full") or (isinstance(value, int) and 1 <= value <= MOST_WIDE):
            return value
        raise ConfigError(f"{value!r} is no rotation.", fix="Give none, full, or how many directions to keep.")

    @model_validator(mode="after")
    def _orthogonal_prototypes_fit(self) -> SelectorConfig:
        if self.prototypes > self.latent:
            raise ValueError(
                f"{self.prototypes} orthogonal prototypes do not fit into a latent of size {self.latent}; "
                "raise selector.latent or lower selector.prototypes"
            )
        return self


class InferenceConfig(Config):
    """How z is inferred from labelled pairs.

    Attributes:
        method: ``amortised`` (the encoder alone), ``responsibilities`` (the likelihood at the prototypes), ``laplace``
            (a Newton mode per prototype), ``ridge`` (the same for a z that is a whole head, under another prior),
            ``none`` (z is the prior mean: one model for all) or ``vote`` (every prototype alike: one model for all,
            whose margins are the majority vote of the selectors at the prototypes), ``simplex`` (z is the mixture of
            the prototypes that fits the pairs best), or one that a package or program added; see
            :mod:`fedvpa.selector.inference`.
        component_log_var: The log-variance of the prior's components in all directions, where ``log_vars`` of a
            selector do not say it.
        decay: The L2 penalty of ``ridge``, relative to the mean loss of n pairs: the prior precision is decay · n.
        precision: The prior precision of ``ridge`` whatever n is: more pairs then move z further. None for decay · n.
        steps: Gradient steps of ``simplex`` from the prior's weights, of size ``rate``. None for convergence.
        rate: Their size.
    """

    method: str = "responsibilities"
    component_log_var: float = -4.0
    decay: float = 1.0
    precision: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    rate: float = Field(default=1.0, gt=0)
