"""Hyper-parameters of local training and of the methods. Defaults cite the paper or say why they differ."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedvpa.algorithms.firm_config import FirmConfig
from fedvpa.core.config import Config
from fedvpa.core.numbers import Count, LearningRate, LogVariance, Margin, Size, Steps, Temperature, Weight
from fedvpa.core.rules import RulesConfig
from fedvpa.selector.config import SelectorConfig

Refinement = Literal["laplace", "responsibilities", "off"]


class LocalConfig(Config):
    """What one client does in one round, for every method alike.

    Attributes:
        steps: Local optimiser steps. The paper has 30 of 32 pairs; 5 passes through five folds suffice for a head on
            cached features.
        folds: Each step predicts one fold (1/folds of a client's pairs, in turn) with z inferred from others, so that
            over ``folds`` steps every pair is predicted once, and never by a z that saw it. Chosen by us.
        target_size: Most pairs that one step predicts. The paper's batch of 32.
        context_size: Most pairs that z is inferred from in a step. Chosen by us.
        head_optimizer: ``sgd``, or ``adamw`` (β 0.9, 0.95; the paper's). Adam's sign-like first steps drown the small
            differences between heads in each client's noise: measured by ``benchmarks/ablation.py``.
        head_lr: Learning rate of the head. Chosen by ``benchmarks/ablation.py`` on validation pairs.
        head_weight_decay: L2 penalty on the head, in the loss for ``sgd``, decoupled for ``adamw``. Chosen in the same
            way.
        encoder_lr: Learning rate of encoder, prototypes and mixture weights, by AdamW(0.9, 0.95), fresh each round.
            Chosen by us; refinement leaves it little influence.
        encoder_weight_decay: Decoupled weight decay of the same.
    """

    steps: Steps = 5
    folds: int = Field(default=5, ge=2)
    target_size: int = Field(default=32, ge=1)
    context_size: int = Field(default=128, ge=1)
    head_optimizer: Literal["sgd", "adamw"] = "sgd"
    head_lr: LearningRate = 0.05
    head_weight_decay: Weight = 0.3
    encoder_lr: LearningRate = 1e-3
    encoder_weight_decay: Weight = 0.01


class VariationalConfig(Config):
    """The terms of FedVPA-GP, and what FedEM reads of them: the keys from ``refinement`` on.

    Attributes:
        prior: ``mixture`` (E6) of M components, learned from sums of moments of the clients' posteriors; ``normal``,
            N(0, I) (FedVPL); or ``posteriors``, the mixture of the last cohort's posteriors. The last is what was
            published and is there to reproduce it, for nothing else: each user's posterior, which says what the user
            prefers, is uploaded under the user's id and sent to all users of the next round.
        normal_weight: Fixed weight of an N(0, I) component beside the mixture, which keeps the prior proper when all
            components are narrow. Chosen by us.
        kl_weight: β of E10. The paper's 0.1.
        orthogonal_weight: λ of E10. The paper's 1.0. 0 switches L_ortho off.
        gram_weight: γ of E9. The paper's 0.1.
        gumbel: Whether mixture weights are drawn by Gumbel-Softmax (E8); otherwise plain softmax(log π).
        temperature_start: τ in the first round (paper: 1.0).
        temperature_end: τ in the last round, reached exponentially (paper: 0.1).
        refinement: How the likelihood of a user's own pairs enters z at inference. ``off``: not at all, amortised q
            alone, as published; FedEM has no q and refuses it. ``responsibilities``: z on the components of the prior,
            weighted by prior and likelihood. ``laplace``: Newton steps around each component, which
            ``benchmarks/ablation.py`` finds a little better. Under FedVPA-GP, q is a further factor.
        component_log_var: log v, the variance of the prior's components in inference, where none is learned. The
            paper's variance cap.
        gain: Sets the gain: the log-likelihoods of a context at the prototypes are multiplied by max(1, this / their
            root mean square over clients), so that the first small differences between the heads already separate
            clients, and Bayes' rule remains once they suffice. Chosen by ``benchmarks/ablation.py``. 0 is Bayes' rule
            throughout.
        learn_prior: Whether log π over prototypes follows the clients' mean responsibilities (M-step); otherwise
            uniform.
        warmup: Fraction of the rounds in which all clients share one head (z = 0), before prototypes may separate them.
            Short, as ``benchmarks/ablation.py`` has it: a head that already fits the clients' noise separates them by
            it.
    """

    prior: Literal["mixture", "normal", "posteriors"] = "mixture"
    normal_weight: float = Field(default=0.05, ge=1e-6, lt=1)
    kl_weight: Weight = 0.1
    orthogonal_weight: Weight = 1.0
    gram_weight: Weight = 0.1
    gumbel: bool = True
    temperature_start: Temperature = 1.0
    temperature_end: Temperature = 0.1
    refinement: Refinement = "laplace"
    component_log_var: LogVariance = -4.0
    gain: Margin = 4.5
    learn_prior: bool = True
    warmup: float = Field(default=0.02, ge=0, lt=1)


class ServerConfig(RulesConfig):
    """Aggregation, for every method alike; with the keys of :class:`~fedvpa.core.rules.RulesConfig`.

    Attributes:
        rounds: Rounds in all. The paper has 50.
        average_tail: The final weights are the mean over this last fraction of the rounds: FedAvg with small cohorts
            is noisy. Chosen by ``benchmarks/ablation.py``. 0 keeps the last.
        prior_rate: Step of the running means of responsibilities and evidence. Chosen by us.
    """

    rounds: Count = 200
    average_tail: float = Field(default=0.5, ge=0, le=1)
    prior_rate: float = Field(default=0.1, ge=1e-6, le=1)


class BiscuitLoraConfig(Config):
    """FedBiscuit's selectors as language models: the method ``fedbiscuit_lora`` of ``compare --stage policy``.

    Defaults without a source are chosen by us, on a seed of the bundled world that no table has, for about a minute and
    a half on one core.

    Attributes:
        rounds: Rounds in all. The paper has 500.
        warmup_rounds: R_w; None for ``rounds`` / (U + 1).
        regroup_every: R_g; None for the same.
        cohort: Clients per round. The paper has 5 of 53; fewer, for more steps on the way.
        steps: Local optimiser steps.
        batch: Pairs per step, each in both orders.
        lr: Learning rate, by AdamW(0.9, 0.95), fresh for every client and round. As ``policy.lr``, for a real language
            model; the bundled world's takes 100 times that, see :mod:`fedvpa.runs.presets`.
        lora_rank: LoRA r.
        lora_alpha: LoRA α.
        report_pairs: Most pairs whose losses a client reports for a grouping, the first ones: bounds the server's wait.
        base_samples: Most samples of the base policy that a look at the validation prompts compares one with.
    """

    rounds: Count = 16
    warmup_rounds: int | None = Field(default=None, ge=1)
    regroup_every: int | None = Field(default=None, ge=1)
    cohort: int = Field(default=3, ge=1)
    steps: Steps = 8
    batch: int = Field(default=8, ge=1)
    lr: LearningRate = 1e-4
    lora_rank: Size = 8
    lora_alpha: Size = 16
    report_pairs: Count = 24
    base_samples: Count = 4


class BiscuitConfig(Config):
    """FedBiscuit's selectors and groups.

    Attributes:
        selectors: U. The paper has 3 and 5. With 1 it is FedBis: plain FedAvg, clients counting alike.
        warmup_rounds: R_w, the rounds in which every client trains one selector, for each selector in turn. None for
            ``server.rounds`` / (U + 1), which gives the authors' 50 of 200 rounds at U = 3, and as many to the groups
            as to a selector's warm-up whatever the length of a run.
        regroup_every: R_g, rounds from one grouping to the next. None for the same: the authors have 50 too.
        lora: The selectors as language models; of the keys above only U is shared.
    """

    selectors: Size = 3
    warmup_rounds: int | None = Field(default=None, ge=1)
    regroup_every: int | None = Field(default=None, ge=1)
    lora: BiscuitLoraConfig = BiscuitLoraConfig()


class LoreConfig(Config):
    """The basis of LoRe (arXiv 2504.14439), and its switch to MRM (arXiv 2601.18731).

    Attributes:
        basis: B, how many basis rewards there are; at most ``selector.latent``. LoRe has 5 to 50 for the users of
            PRISM. 2 was chosen by us on two deals of HH-RLHF objectives that no table has, 50 clients of some forty
            pairs: accuracy 0.600, and 0.579 with 5.
        meta: MRM: all users start from weights that are learned, and take ``meta_steps`` from there; otherwise each
            user's weights are fitted to convergence.
        meta_steps: Gradient steps of a user on the logits of the weights. Chosen by us: few, as in meta-learning.
        meta_lr: Their size, on the mean log-likelihood of a user's pairs. Chosen by us, on two deals of HH-RLHF
            objectives that no table has: with 1 users stay where they start, and the method is ``global``.
    """

    basis: Size = 2
    meta: bool = False
    meta_steps: Steps = 5
    meta_lr: LearningRate = 30.0


class EmpiricalBayesConfig(Config):
    """The hierarchical prior of ``fedeb``, all of which is learned unless it is given here.

    Attributes:
        components: M, how many components the prior has. None: of 1, 2, 3, 4, 6 and 8, the fewest that are not clearly
            worse than the best, by the evidence of training pairs. All of them are trained side by side then.
        width: σ², the variance of a component in each direction, for features of norm √D. None: found by evidence. 0:
            groups without individuals; with one component that is one model for all.
        precision: τ, the prior precision of the components' means. None: found by evidence.
        curvature: Of the clients' likelihoods, as it is sent: ``diagonal``, one number for each direction, or
            ``shared``, their mean, which is shared out over directions as the spectrum of public pairs says
            (``privacy.public_pairs``), evenly without any. The second is for sums with noise.
        gain: Inverse temperature of the evidence in memberships while training. 1 is EM; 1.5, the default of 0.4.0,
            changed the accuracy on no data by more than 0.001 (``configs/variants/fedeb.yaml``).
        step: Weight of a round in the running means, before they become plain means of the last rounds. Chosen by us:
            a window of about seven cohorts.
        start: The share of the rounds, at their beginning, in which memberships are drawn at random: what breaks the
            symmetry between components. Chosen by us.
        groups_first: The share of the rounds in which several components have no width: wide ones explain everybody
            before they have come apart. Chosen by us.
    """

    components: int | None = Field(default=None, ge=1, le=64)
    width: float | None = Field(default=None, ge=0, le=1e3)
    precision: float | None = Field(default=None, ge=1e-6, le=1e12)
    curvature: Literal["diagonal", "shared"] = "diagonal"
    gain: Margin = 1.0
    step: float = Field(default=0.15, ge=1e-3, le=0.9)
    start: float = Field(default=0.05, ge=0, le=0.5)
    groups_first: float = Field(default=0.4, ge=0, le=1)


class MethodConfig(Config):
    """Everything that a method is configured by."""

    selector: SelectorConfig = SelectorConfig()
    local: LocalConfig = LocalConfig()
    variational: VariationalConfig = VariationalConfig()
    biscuit: BiscuitConfig = BiscuitConfig()
    lore: LoreConfig = LoreConfig()
    eb: EmpiricalBayesConfig = EmpiricalBayesConfig()
    firm: FirmConfig = FirmConfig()
    server: ServerConfig = ServerConfig()
