"""DPO on pairs that a run's selector ordered; it ends with the weights of the step that validation chose."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fedvpa.algorithms.registry import OWN_HEADS
from fedvpa.alignment.candidates import Candidates, load_or_make, sample_candidates
from fedvpa.alignment.job import title
from fedvpa.alignment.label_check import LabelCheck, check_passed
from fedvpa.alignment.label_sources import check_labels
from fedvpa.alignment.loop import dpo_steps
from fedvpa.alignment.preferences import label_pairs, language_floor, selector_margins
from fedvpa.alignment.prompts import draw, public_prompts
from fedvpa.alignment.reader import reader_of
from fedvpa.alignment.setup import (
    Labeller,
    base_candidates,
    candidate_texts,
    check_prompts_readable,
    first_pairs,
    fresh_policy,
    latents_of,
)
from fedvpa.alignment.stage1 import ONE, Stage1
from fedvpa.alignment.stopping import BestWeights, Validation, ValidationResult, margins_over_base
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.processes import current
from fedvpa.core.progress import say
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.data.schema import Text
from fedvpa.features.responses import features_of
from fedvpa.policy.adapters import restore, snapshot
from fedvpa.policy.dpo_trainer import DPOTrainer
from fedvpa.policy.examples import Examples
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids


class DPOJob:
    """The training of one policy.

    Args:
        stage: The first stage.
        name: Of the policy: a true group's, or ``ONE``.
        labelled_by: Of the fresh policy and every prompt, what orders candidates in place of the stage's selector.
        method: What it is called, if not by the stage's method.
        refresh_folder: Where the samples of refreshes are kept, if it is to be resumable.
        stops: Whether labels that fail the check stop it, as ``policy.preferences.check`` says; otherwise that is said.

    Raises:
        AlignmentError: If the labels fail the check, and that stops it.
        ConfigError: If the method has no policy: ``local`` and ``finetune`` have a selector per client.
        DataError: If there are too few prompts, or no pair is left after the margin filter.
    """

    unit: Literal["step"] = "step"

    def __init__(
        self,
        stage: Stage1,
        name: str = ONE,
        *,
        labelled_by: Callable[[Policy, Sequence[Text]], Labeller] | None = None,
        method: str | None = None,
        refresh_folder: Path | None = None,
        stops: bool = True,
    ) -> None:
        if stage.method in OWN_HEADS:
            raise ConfigError(
                f"The method {stage.method!r} has a selector per client and no one policy.", fix="Align another run."
            )
        self._stage, self._folder = stage, refresh_folder
        self._best: BestWeights | None = None
        self.method, self.name = method or stage.method, name
        self.settings, self.seed = stage.policy, stage.seed
        self._policy = fresh_policy(stage)
        self._prompts, held = public_prompts(stage)
        check_prompts_readable(stage, self._policy, self._prompts)
        labeller = labelled_by(self._policy, [*self._prompts, *held]) if labelled_by else None
        self._margins = labeller.margins if labeller else selector_margins(stage.reward)
        candidates = base_candidates(stage, self._policy, self._prompts, "train")
        self._floor = language_floor(candidates)
        # One process's word, since others may round a margin the other way.
        self._pairs = current().told(first_pairs(stage, name, candidates, margins=self._margins))
        self._labels = None if labeller else self._checked(candidates, stops=stops)
        samples = base_candidates(stage, self._policy, held, "validation")
        self._candidates = f"{candidates.content()} {samples.content()}"
        latents = latents_of(stage, name, len(held), "validation")

        def features(responses: Sequence[Ids]) -> Tensor:
            texts = [self._policy.tokenizer.text(ids) for ids in responses]
            return features_of(held, texts, reader_of(stage, self._policy), stage.features)

        over_base = (
            labeller.over_base(samples) if labeller else margins_over_base(stage.reward, samples, latents, features)
        )
        self._validation = Validation(samples, latents, over_base, stage.personal)
        self._trainer = DPOTrainer(self._policy, self.settings, self.seed, name)

    @property
    def title(self) -> str:
        """See :class:`~fedvpa.core.loop.Job`."""
        return title(self.method, self.name)

    @property
    def total(self) -> int:
        """Optimiser steps."""
        return self.settings.steps

    @property
    def done(self) -> int:
        """Optimiser steps behind it."""
        return self._trainer.step

    @property
    def is_main(self) -> bool:
        """See :class:`~fedvpa.core.loop.Job`."""
        return current().main

    @property
    def checkpoint_due(self) -> bool:
        """Every so many steps."""
        every = self.settings.checkpoint_every
        return bool(every) and self.done % every == 0

    def run(self) -> Generator[dict[str, Any], None, None]:
        """See :class:`~fedvpa.core.loop.Job`."""
        steps = dpo_steps(
            self._policy,
            self._trainer,
            self._pairs.examples,
            self._validation,
            self.settings,
            self.seed,
            self.name,
            best=self._best,
            refresh=self._refreshed if self.settings.refresh_every else None,
        )
        for result in steps:
            self._best = result.best
            first = {"labels": self._labels.to_dict()} if self.done == 1 and self._labels else {}
            yield result.line | first

    def state(self) -> tuple[Tree, dict[str, str]]:
        """Weights, optimiser, and the best weights so far; a hash of the candidates that they were trained on."""
        tensors = prefixed("weights", snapshot(self._policy)) | prefixed("optimiser", self._trainer.state())
        notes = {"candidates": self._candidates}
        if self._best is None:
            return tensors, notes
        best = self._best
        counts = {"highest": best.highest, "looks": best.looks, "admissible": best.admissible, "refused": best.refused}
        notes |= {"look": json.dumps(asdict(best.result)), "best": json.dumps(counts)}
        return tensors | prefixed("kept", self._best.weights), notes

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """See :class:`~fedvpa.alignment.job.AlignmentJob`.

        Raises:
            RunError: If the candidates are others now: sampled anew, on another device or by other versions.
        """
        if notes["candidates"] != self._candidates:
            raise RunError(
                "The checkpoint was made with other candidates than the base policy has given now, so going on would "
                "mix two runs.",
                fix="Restore the cache of candidates, or start again with --overwrite.",
            )
        restore(self._policy, below("weights", tensors))
        self._trainer.load_state(below("optimiser", tensors))
        if "look" in notes:
            result = ValidationResult(**json.loads(notes["look"]))
            self._best = BestWeights(result, below("kept", tensors), **json.loads(notes["best"]))

    def finish(self) -> tuple[Policy, dict[str, Any]]:
        """The policy with the chosen weights; the pairs' counts, their labels, and the validation that chose them."""
        best = self._best
        if best is None:
            raise RunError("The policy never met the validation prompts.", fix="Raise policy.steps.")
        restore(self._policy, dict(best.weights))
        notes = {
            "pairs": dict(self._pairs.counts),
            "labels": self._labels.to_dict() if self._labels else None,
            "stopped": asdict(best.result),
            "looks": best.looks,
            "admissible": best.admissible,
            "collapsed": best.refused if best.collapsed else "",
        }
        if best.result.step == 0 and not best.collapsed:
            say(f"WARNING: {self._named()}: no look was better than the base policy, which is kept")
        return self._policy.eval(), notes

    def _named(self) -> str:
        return f"{self.method}{f' ({self.name})' if self.name else ''}"

    def _checked(self, candidates: Candidates, *, stops: bool) -> LabelCheck | None:
        """What the label check finds, said in one line; None if it is off."""
        rule = self.settings.preferences
        if rule.check == "off":
            return None
        texts = candidate_texts(self._stage, self._prompts)
        found = check_labels(self._stage, self._policy, texts, candidates, self._pairs)
        say(found.line())
        how = rule if stops else rule.model_copy(update={"check": "warn"})
        if failure := check_passed(found, how, self._named()):
            say(f"WARNING: {self._named()}: {failure}")
        return found

    def _refreshed(self, step: int) -> Examples:
        """Pairs among samples of the current policy, each judged at the latent that it was sampled with."""
        stage, settings = self._stage, self.settings
        texts = draw(self._prompts, settings.refresh_prompts, self.seed, "refresh", step)
        latents = latents_of(stage, self.name, len(texts), "refresh", step)

        def sampled(kept: PartialSamples | None = None) -> Candidates:
            return sample_candidates(
                self._policy,
                texts,
                settings.candidates,
                reader_of(stage, self._policy),
                stage.features,
                self.seed,
                "refresh",
                step,
                z=latents.z if stage.personal else None,
                own=True,
                kept=kept,
            )

        path = self._folder / f"{refresh_file(self.name)}{step}.safetensors" if self._folder else None
        own = load_or_make(path, sampled) if path else sampled()
        rule = settings.preferences
        labelled = label_pairs(
            own,
            self._margins,
            latents,
            rule,
            with_z=stage.personal,
            pairs_per_latent=rule.latents_per_prompt * rule.pairs_per_latent,
            floor=self._floor,
        )
        return current().told(labelled.examples)


def refresh_file(name: str) -> str:
    """How the names of the files begin that keep the samples of a policy's refreshes."""
    return f"refresh-{name}-" if name else "refresh-"
