"""Hyper-parameters of stage 2. Defaults cite the paper (FedVPA-GP, arXiv 2605.30873) or say why they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fedvpa.core.config import Config
from fedvpa.core.numbers import GreedyTemperature, LearningRate, Margin, Scale, Size, Temperature, Weight

Conditioning = Literal["soft_prefix", "additive"]
Precision = Literal["auto", "float32", "bfloat16"]


class CandidateConfig(Config):
    """The responses that preferences are drawn over: the same ones for every method of a comparison.

    Attributes:
        source: ``samples`` of the base policy, or the ``pairs`` of the run's data set, in which every prompt has two.
        prompt_file: A text file of public prompts, one a line; None for the bundled world's, or for the prompts of the
            training pairs.
        prompts: How many prompts; fewer where there are not so many.
        validation_prompts: How many further prompts choose the stopping step.
        samples: K, responses to each prompt. The paper has 2; with more, best and worst differ by more, which is worth
            as many steps. Chosen by us.
        temperature: Of the samples.
        top_p: Nucleus of the samples; 1 for the whole distribution.
        max_new_tokens: Longest sample.
        batch: Prompts sampled at once.
    """

    source: Literal["samples", "pairs"] = "samples"
    prompt_file: Path | None = None
    prompts: int = Field(default=450, ge=1)
    validation_prompts: int = Field(default=80, ge=1)
    samples: int = Field(default=16, ge=2)
    temperature: Temperature = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=112, ge=1)
    batch: int = Field(default=300, ge=1)


class PreferenceConfig(Config):
    """How the selector turns candidates into z-labelled preference pairs.

    Attributes:
        latents_per_prompt: How many latents judge each prompt's candidates, spread evenly over the prototypes.
        prototypes: Share of latents that sit on a prototype.
        posteriors: Share of latents drawn from the posterior of a seen client; the rest are mixtures of prototypes
            (the mixture prior's mean moves between them), which teach the policy what lies between. Chosen by us.
        pairs_per_latent: Pairs kept for each prompt and latent, the widest margins first, no response twice.
        margin: Least difference of rewards, in standard deviations of the rewards of one prompt's candidates, pooled
            over all prompts and all latents: a latent to which candidates are alike so gives fewer pairs. Chosen by us.
    """

    latents_per_prompt: int = Field(default=2, ge=1)
    prototypes: float = Field(default=0.4, ge=0, le=1)
    posteriors: float = Field(default=0.4, ge=0, le=1)
    pairs_per_latent: int = Field(default=2, ge=1)
    margin: Margin = 0.5

    @model_validator(mode="after")
    def _shares(self) -> PreferenceConfig:
        if self.prototypes + self.posteriors > 1:
            raise ValueError("the shares of prototypes and posteriors add up to more than 1")
        return self


class JudgingConfig(Config):
    """How policies are compared with the base policy.

    Attributes:
        judge: ``world`` (exact, for the bundled world), ``openai-compatible``, ``reward-model``, or a judge or reward
            that a package or the program adds. A run's configuration checks the name. None for ``world`` on the bundled
            world; other data have no judge that fits by itself.
        settings: The judge's own keys; see ``fedvpa.evaluation.judges``.
        prompts: How many unseen prompts.
        temperature: Of everybody's answers, the base policy's included. 0.7 is what chat services are usually run at.
        top_p: Nucleus.
        max_calls: The most calls to a judge's endpoint that one folder may take in all, retries included; None for any
            number. A plan that needs more is refused before anything runs.
        missing_limit: Largest share of verdicts that may be missing before the evaluation is an error.
    """

    judge: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    prompts: int = Field(default=500, ge=1)
    temperature: GreedyTemperature = 0.7
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_calls: int | None = Field(default=None, ge=1)
    missing_limit: float = Field(default=0.05, ge=0, le=1)


class FedDPOConfig(Config):
    """FedDPO: clients run DPO on their own pairs (OpenFedLLM, KDD 2024: 200 rounds, 2 of 5 clients, 10 steps of 16).

    Attributes:
        rounds: Rounds. Fewer than theirs, such that all local steps together read as many pairs as the other methods'
            ``steps`` × ``batch``.
        cohort: Clients per round.
        steps: Local steps.
        batch: Pairs per local step.
        averaging: ``avg`` averages the LoRA factors (as published, inexact), ``ffa`` freezes the shared random factor
            (FFA-LoRA, arXiv 2403.12313: exact), ``svd`` averages the products, keeps their best rank-r part as factors
            and folds the rest into the frozen weights (FedEx-LoRA, arXiv 2410.09432: exact).
    """

    rounds: int = Field(default=20, ge=1)
    cohort: int = Field(default=5, ge=1)
    steps: int = Field(default=4, ge=1)
    batch: int = Field(default=8, ge=1)
    averaging: Literal["avg", "ffa", "svd"] = "avg"


class PolicyConfig(Config):
    """Stage 2: one policy for all users.

    Attributes:
        model: The base policy: ``bundled``, a folder or a hub id; None for the language model of the features.
        conditioning: ``soft_prefix``: z becomes ``prefix_tokens`` virtual tokens before the prompt. ``additive``: a
            linear map of z is added to every input embedding, as published.
        prefix_tokens: Virtual tokens of a soft prefix. Chosen by us.
        lora_rank: LoRA r. The paper's 8.
        lora_alpha: LoRA α. The paper's 16.
        lora_dropout: The paper has 0.05; 0 by default because a policy of a million parameters does not overfit.
        beta: DPO β. The paper's 0.1.
        sft_weight: Weight of the preferred responses' negative log-likelihood per token, beside DPO (iterative RPO,
            arXiv 2404.19733; Llama 3 has 0.2 of it). DPO alone lowers the probability of both responses, and what a
            small policy then says instead is outside its language; measured by ``benchmarks/policy_choices.py``.
        language_weight: Weight of the negative log-likelihood per token, in both responses, of those tokens that the
            reference was sure of. DPO may move choices; this holds what follows from a choice, which it would
            otherwise unlearn as readily. Chosen by us.
        steps: Optimiser steps.
        batch: Pairs per optimiser step.
        micro_batch: Pairs per forward pass, on one process; gradients accumulate to ``batch``. None for all at once.
        lr: Peak learning rate of LoRA, by AdamW(0.9, 0.95), linear warm-up and cosine decay. The paper has 1e-5 for
            Qwen2-0.5B; a policy of a million parameters wants more.
        conditioner_lr: Peak learning rate of the z-conditioner. The paper trains the parts of z at 10× the rate;
            chosen by us on validation prompts.
        warmup: Share of the steps in which the learning rate rises. Chosen by us.
        clip_norm: Longest gradient. Chosen by us.
        evaluate_every: Steps between looks at the validation prompts; the stopping step is chosen among them.
        refresh_every: Steps between refreshes of the candidates by samples of the current policy; 0 for never, as
            in the paper. What one is worth is measured by ``benchmarks/policy_choices.py``.
        refresh_prompts: To how many of the prompts, drawn anew, the policy responds at a refresh.
        checkpoint_every: Steps between checkpoints; 0 for none but the last.
        precision: ``auto`` is bfloat16 on a GPU and float32 elsewhere.
        gradient_checkpointing: Trade time for memory.
        candidates: See :class:`CandidateConfig`.
        preferences: See :class:`PreferenceConfig`.
        judging: See :class:`JudgingConfig`.
        feddpo: See :class:`FedDPOConfig`.
    """

    model: str | None = None
    conditioning: Conditioning = "soft_prefix"
    prefix_tokens: Size = 8
    lora_rank: Size = 32
    lora_alpha: Size = 64
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    beta: Scale = 1.0
    sft_weight: Weight = 40.0
    language_weight: Weight = 100.0
    steps: int = Field(default=450, ge=1)
    batch: int = Field(default=8, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    lr: LearningRate = 3e-3
    conditioner_lr: LearningRate = 2e-2
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: Scale = 1.0
    evaluate_every: int = Field(default=150, ge=1)
    refresh_every: int = Field(default=225, ge=0)
    refresh_prompts: int = Field(default=225, ge=1)
    checkpoint_every: int = Field(default=50, ge=0)
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    candidates: CandidateConfig = CandidateConfig()
    preferences: PreferenceConfig = PreferenceConfig()
    judging: JudgingConfig = JudgingConfig()
    feddpo: FedDPOConfig = FedDPOConfig()
