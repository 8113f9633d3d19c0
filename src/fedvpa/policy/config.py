"""Hyper-parameters of stage 2. Defaults cite the paper (FedVPA-GP, arXiv 2605.30873) or say why they differ.

The defaults are for a real chat model, from a hundred million parameters on. The bundled language model, which has a
million, starts from values of its own: :mod:`fedvpa.runs.presets`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fedvpa.core.config import Config
from fedvpa.core.numbers import Count, GreedyTemperature, LearningRate, Margin, Scale, Size, Steps, Temperature, Weight
from fedvpa.models.loading_config import LoadingConfig
from fedvpa.models.template_config import TemplateArguments, TemplateKind
from fedvpa.policy.clients_config import ClientsConfig

Conditioning = Literal["gated_lora", "soft_prefix", "additive"]
Precision = Literal["auto", "float32", "bfloat16"]


class CandidateConfig(Config):
    """The responses that preferences are drawn over: the same ones for every method of a comparison.

    Attributes:
        source: ``samples`` of the base policy, or the ``pairs`` of the run's data set, in which every prompt has two.
        prompt_file: A file of public prompts, one a line: as they are, or, in a ``.jsonl`` file, as strings, lists of
            messages or objects with ``prompt`` or ``messages``; None for the bundled world's, or for the prompts of the
            training pairs.
        prompts: How many prompts; fewer where there are not so many. Chosen by us: with two latents for each, as many
            pairs as 125 steps of 8 read, so that the default steps read each pair about once.
        validation_prompts: How many further prompts choose the stopping step. Chosen by us: the standard error of a win
            rate over 80 prompts is about 0.05.
        samples: K, responses to each prompt. The paper has 2; with more, best and worst differ by more, which makes
            them easier to order, and is worth as many steps. 4 are chosen by us: sampling is most of the work.
        temperature: Of the samples. 1, the policy's own distribution, which DPO's reference is.
        top_p: Nucleus of the samples; 1 for the whole distribution.
        max_new_tokens: Longest sample. 256 tokens keep 97% of the responses of HH-RLHF whole.
        batch: Responses sampled at once. Chosen by us: 64 rows of 768 tokens are 0.6 GB of keys and values in
            Qwen2-0.5B, and 6.4 GB in Llama-3-8B.
    """

    source: Literal["samples", "pairs"] = "samples"
    prompt_file: Path | None = None
    prompts: Count = 500
    validation_prompts: Count = 80
    samples: int = Field(default=4, ge=2, le=10_000)
    temperature: Temperature = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: Count = 256
    batch: int = Field(default=64, ge=1)


class PreferenceConfig(Config):
    """How the selector turns candidates into z-labelled preference pairs.

    Attributes:
        latents_per_prompt: How many latents judge each prompt's candidates, spread evenly over the prototypes.
        prototypes: Share of latents that sit on a prototype.
        posteriors: Share of latents drawn from the posterior of a seen client; the rest are mixtures of prototypes
            (the mixture prior's mean moves between them), which teach the policy what lies between. Chosen by us.
        pairs_per_latent: Pairs kept for each prompt and latent, the widest margins first, no response twice. 1 by
            default, the widest pair, which is the one that is most often ordered right. Chosen by us.
        margin: Least difference of rewards, in standard deviations of the rewards of one prompt's candidates, pooled
            over all prompts and all latents: a latent to which candidates are alike so gives fewer pairs. Chosen by us.
        surface: Whether the reward reads the surface features (``features.surface``) of responses. Off: z is inferred
            with them and responses are ordered without, since a policy would learn length.
        check: What is done if the label check (:mod:`fedvpa.alignment.label_check`) fails: ``stop`` before the first
            step, ``warn`` and go on, or ``off`` for no check.
        min_accuracy: The share of pairs to train on that must be in the right order. None: it must lie above one half
            by two standard errors, which is where DPO learns more from the labels than from luck. Chosen by us.
    """

    latents_per_prompt: int = Field(default=2, ge=1, le=10_000)
    prototypes: float = Field(default=0.4, ge=0, le=1)
    posteriors: float = Field(default=0.4, ge=0, le=1)
    pairs_per_latent: int = Field(default=1, ge=1, le=10_000)
    margin: Margin = 0.5
    surface: bool = False
    check: Literal["stop", "warn", "off"] = "stop"
    min_accuracy: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _shares(self) -> PreferenceConfig:
        if self.prototypes + self.posteriors > 1:
            raise ValueError("the shares of prototypes and posteriors add up to more than 1")
        return self


class GuardConfig(Config):
    """What a policy must keep of its base; a look at the validation prompts outside these limits is not admissible.

    Each limit holds for all validation prompts together and for those of every prototype. Chosen by us.

    Attributes:
        max_kl: KL(π ‖ π_ref) of an answer, in nats for each token of the base policy's own answers. Not for each token
            of the policy's: one that learns to be short moves as far in fewer tokens.
        max_drop: By how many nats the mean log-probability of a token of the policy's answers under the base may lie
            below that of the base's own.
        min_distinct: Least distinct-2 (different pairs of neighbouring tokens over all of them; Li et al., arXiv
            1510.03055) relative to the base's own. A policy that has a way of its own repeats itself somewhat more than
            its base does. With SmolLM2-135M answers of one style lost their subject at 0.5 to 0.7.
    """

    max_kl: Scale = 0.5
    max_drop: Scale = 0.5
    min_distinct: float = Field(default=0.85, ge=0, le=1)


class JudgingConfig(Config):
    """How policies are compared with the base policy.

    Attributes:
        judge: ``world`` (exact, for the bundled world), ``styles`` (exact, for users of ``fedvpa simulate``),
            ``openai-compatible``, ``reward-model``, or a judge or reward
            that a package or the program adds. A run's configuration checks the name. None for ``world`` on the bundled
            world; other data have no judge that fits by itself.
        settings: The judge's own keys; see ``fedvpa.evaluation.judges``.
        prompts: How many unseen prompts.
        prompt_file: A file of prompts to judge on, as ``policy.candidates.prompt_file``; those that train are left
            out. None for the prompts that are held out of the users' pairs.
        temperature: Of everybody's answers, the base policy's included. 0.7 is what chat services are usually run at.
        top_p: Nucleus.
        max_calls: The most calls to a judge's endpoint that one folder may take in all, retries included; None for any
            number. A plan that needs more is refused before anything runs.
        missing_limit: Largest share of verdicts that may be missing before the evaluation is an error.
    """

    judge: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    prompts: Count = 500
    prompt_file: Path | None = None
    temperature: GreedyTemperature = 0.7
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_calls: int | None = Field(default=None, ge=1)
    missing_limit: float = Field(default=0.05, ge=0, le=1)


class FedDPOConfig(Config):
    """FedDPO: clients run DPO on their own pairs (OpenFedLLM, KDD 2024: 200 rounds, 2 of 5 clients, 10 steps of 16).

    Attributes:
        rounds: Rounds. Fewer than theirs, such that all local steps together read as many pairs as the other methods'
            ``steps`` × ``batch`` by default: 6 × 5 × 4 × 8 = 120 × 8.
        cohort: Clients per round.
        steps: Local steps.
        batch: Pairs per local step.
        averaging: ``avg`` averages the LoRA factors (as published, inexact), ``ffa`` freezes the shared random factor
            (FFA-LoRA, arXiv 2403.12313: exact), ``svd`` averages the products, keeps their best rank-r part as factors
            and folds the rest into the frozen weights (FedEx-LoRA, arXiv 2410.09432: exact).
    """

    rounds: Count = 6
    cohort: int = Field(default=5, ge=1)
    steps: Steps = 4
    batch: int = Field(default=8, ge=1)
    averaging: Literal["avg", "ffa", "svd"] = "avg"


class PolicyConfig(Config):
    """Stage 2: one policy for all users.

    Attributes:
        model: The base policy: ``bundled``, a folder, a ``.gguf`` file or a hub id; None for the language model of the
            features.
        loading: How it is fetched and loaded; see :class:`~fedvpa.models.loading_config.LoadingConfig`. None for as the
            features' model is where it is that one, else for the defaults.
        template: How strings are read, as ``features.template`` has it; None for that of the features.
        template_arguments: Further arguments of the chat template; None for those of the features.
        conditioning: How z enters. ``gated_lora``: z scales the directions of the LoRA in every layer. ``soft_prefix``:
            a linear map of z gives ``prefix_tokens`` vectors, which are added to the embeddings of the prompt's first
            tokens. ``additive``: one vector is added to every input embedding, as published. With each, a policy
            starts as its base. The first is the default, chosen by us: on the bundled world it learns as well as the
            virtual tokens of earlier releases, and a prefix that is added to the prompt does not.
        prefix_tokens: Length of a soft prefix. Chosen by us.
        lora_rank: LoRA r, on all linear layers. The paper has 8; 16 is chosen by us, for two or more preferences
            share it.
        lora_alpha: LoRA α. The paper's ratio α / r = 2.
        lora_dropout: The paper has 0.05; 0 by default, chosen by us: a pair is read about once, and PEFT cannot
            drop out before the experts of a mixture-of-experts model.
        beta: DPO β. The paper's 0.1, as in the DPO paper (Rafailov et al., arXiv 2305.18290, appendix B).
        sft_weight: Weight of the preferred responses' negative log-likelihood per token, beside DPO (iterative RPO,
            arXiv 2404.19733). DPO alone lowers the probability of both responses. Llama 3 (arXiv 2407.21783, section
            4.1.4) has 0.2; 0.1 is chosen by us: the preferred responses are the base model's own, so less holds it.
        language_weight: Weight of the negative log-likelihood per token, in both responses, of those tokens that the
            reference was sure of. DPO may move choices; this holds what follows from a choice, which a small policy
            at a high learning rate would otherwise unlearn as readily. 0 by default: DPO as published has none.
        steps: Optimiser steps. The paper has 50 rounds of 30. 120 are chosen by us with SmolLM2-135M (what was tried:
            docs/real_model.md): three times this sum of learning rates takes the language beyond the guard's limits.
        batch: Pairs per optimiser step. The paper has 32; 8 are chosen by us, for the memory of one small GPU.
        micro_batch: Pairs per forward pass, on one process; gradients accumulate to ``batch``. None for all at once on
            a GPU, and elsewhere for as many as 1.5 GB of activations allow.
        lr: Peak learning rate of LoRA, by AdamW(0.9, 0.95), linear warm-up and cosine decay. The paper's for Gemma-2B;
            for Qwen2-0.5B it has 1e-5.
        conditioner_lr: Peak learning rate of the z-conditioner. The paper trains the parts of z at 10× the rate.
        warmup: Share of the steps in which the learning rate rises. Chosen by us.
        clip_norm: Longest gradient. Chosen by us.
        evaluate_every: Steps between looks at the validation prompts; the stopping step is chosen among them.
        refresh_every: Steps between refreshes of the candidates by samples of the current policy; 0 for never, as
            in the paper. What one is worth on the bundled world is measured by ``benchmarks/policy_choices.py``.
        refresh_prompts: To how many of the prompts, drawn anew, the policy responds at a refresh.
        checkpoint_every: Steps between checkpoints; 0 for none but the last.
        precision: ``auto`` is bfloat16 on a GPU and float32 elsewhere.
        gradient_checkpointing: Trade time for memory.
        max_prompt_tokens: Longer prompts lose tokens on the left, where the oldest turns are; None for as many as the
            model has positions for. 512 as for features, which keeps 99% of the prompts of HH-RLHF whole.
        tokens_per_batch: Upper bound of rows × longest row where log-probabilities are computed; None for the device's
            default: :func:`~fedvpa.models.budget.token_budget`. Training has ``micro_batch``, and sampling
            ``candidates.batch``.
        candidates: See :class:`CandidateConfig`.
        preferences: See :class:`PreferenceConfig`.
        guard: See :class:`GuardConfig`.
        judging: See :class:`JudgingConfig`.
        clients: See :class:`~fedvpa.policy.clients_config.ClientsConfig`.
        feddpo: See :class:`FedDPOConfig`.
    """

    model: str | None = None
    loading: LoadingConfig | None = None
    template: TemplateKind | None = None
    template_arguments: TemplateArguments | None = None
    conditioning: Conditioning = "gated_lora"
    prefix_tokens: Size = 8
    lora_rank: Size = 16
    lora_alpha: Size = 32
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    beta: Scale = 0.1
    sft_weight: Weight = 0.1
    language_weight: Weight = 0.0
    steps: Count = 120
    batch: int = Field(default=8, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    lr: LearningRate = 1e-4
    conditioner_lr: LearningRate = 1e-3
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: Scale = 1.0
    evaluate_every: int = Field(default=30, ge=1)
    refresh_every: int = Field(default=0, ge=0)
    refresh_prompts: Count = 250
    checkpoint_every: int = Field(default=30, ge=0)
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    max_prompt_tokens: int | None = Field(default=512, ge=1)
    tokens_per_batch: int | None = Field(default=None, ge=1)
    candidates: CandidateConfig = CandidateConfig()
    preferences: PreferenceConfig = PreferenceConfig()
    guard: GuardConfig = GuardConfig()
    judging: JudgingConfig = JudgingConfig()
    clients: ClientsConfig = ClientsConfig()
    feddpo: FedDPOConfig = FedDPOConfig()
