"""The trained preference model: z from a user's labelled pairs, rewards from z."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import write_json
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tensors import write_tensors
from fedvpa.core.tree import below
from fedvpa.features.standardise import Standardiser
from fedvpa.selector.config import InferenceConfig, SelectorConfig
from fedvpa.selector.inference import INFERENCES, Inference
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.scaling import Scaling
from fedvpa.selector.weights import SelectorWeights


@dataclass(frozen=True, repr=False)
class Selector(SelectorWeights):
    """A preference model r(h; z) with the inference of z. Immutable; works for one user or a batch of them.

    Beside what :class:`~fedvpa.selector.weights.SelectorWeights` has:

    Attributes:
        scaling: What turns a language model's features into the selector's; None if they are scaled already.
        feature_key: Names the features it was trained on (model, pooling, truncation); empty if unknown.

    Raises:
        ConfigError: If nobody has added the way of inferring z that its configuration names.
    """

    scaling: Scaling | None = None
    feature_key: str = ""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        INFERENCES.check(self.inference.method)

    @property
    def way(self) -> Inference:
        """How it infers z."""
        return INFERENCES.get(self.inference.method)

    @torch.no_grad()
    def infer(self, context: Pairs) -> Posterior:
        """The posterior over z from labelled pairs (scaled features), and from nothing else; for any leading axes."""
        return self.way.infer(self, context)

    @torch.no_grad()
    def rewards(self, posterior: Posterior, h: Float[Tensor, "*clients n d"]) -> Float[Tensor, "*clients n"]:
        """E_q[r(h; z)]: rewards of responses (scaled features), in nats; under ``vote`` the mean of the selectors."""
        each = self.head.rewards(below("head", self.params), h, posterior.means)
        return (posterior.weights.unsqueeze(-1) * each).sum(-2)

    @torch.no_grad()
    def margins(self, posterior: Posterior, pairs: Pairs) -> Float[Tensor, "*clients n"]:
        """E_q[r(chosen; z) − r(rejected; z)], in nats: positive where the selector agrees with the label.

        Under ``vote`` the majority of the posterior's components decides the sign, one vote each; see
        :func:`fedvpa.selector.vote.majority_margins`. It may differ from the order of the rewards.
        """
        each = self.head.margins(below("head", self.params), pairs, posterior.means, None)
        return self.way.margins(each, posterior.weights)

    def scale(self, features: np.ndarray) -> Tensor:
        """Scaled features of raw ones, as the language model gives them."""
        return (
            torch.from_numpy(np.asarray(features, dtype=np.float32)) if self.scaling is None else self.scaling(features)
        )

    def as_reward(self, *, surface: bool) -> Selector:
        """The selector as the reward of a policy, which scores responses and infers no z.

        Args:
            surface: Whether it reads the surface features of responses, if it was trained on any: a policy that follows
                it then learns them, length first.
        """
        if surface or self.scaling is None:
            return self
        return replace(self, scaling=replace(self.scaling, surface=False))

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write ``config.json`` and ``selector.safetensors`` into ``folder``."""
        folder = Path(folder).expanduser()
        tensors = {f"params.{name}": leaf for name, leaf in self.params.items()}
        tensors |= {"log_prior": self.log_prior, "gain": self.gain.reshape(1)}
        if self.scaling is not None:
            tensors["scaling.mean"] = torch.from_numpy(self.scaling.standardiser.mean)
            tensors["scaling.scale"] = torch.from_numpy(self.scaling.standardiser.scale)
            if self.scaling.rotation is not None:
                tensors["scaling.rotation"] = torch.from_numpy(self.scaling.rotation)
            if self.scaling.blocks:
                tensors["scaling.blocks"] = torch.tensor(self.scaling.blocks)
        write_tensors(folder / "selector.safetensors", tensors, {"schema_version": str(VERSIONS["selector"])})
        write_json(
            folder / "config.json",
            {
                "schema_version": VERSIONS["selector"],
                "selector": self.config.model_dump(mode="json"),
                "inference": self.inference.model_dump(mode="json"),
                "feature_key": self.feature_key,
            },
        )

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str]) -> Selector:
        """Load what :meth:`save_pretrained` wrote.

        Args:
            folder: A run directory, or its ``selector`` folder.

        Raises:
            RunError: If it is not such a folder, or of another schema version, or its way of inferring z is not known
                here.
        """
        folder = Path(folder).expanduser()
        folder = folder / "selector" if (folder / "selector").is_dir() else folder
        try:
            saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            # Copied into memory aligned as torch does: kernels round differently on a tensor at an odd address.
            tensors = {name: leaf.clone() for name, leaf in load_file(folder / "selector.safetensors").items()}
        except (FileNotFoundError, json.JSONDecodeError, SafetensorError) as error:
            raise RunError(
                f"holds no readable selector ({error}).",
                fix="Give a finished run, or its 'selector' folder.",
                where=str(folder),
            ) from error
        check_version(
            "selector",
            saved.get("schema_version"),
            where=str(folder),
            fix="Train again, or use the fedvpa that wrote it.",
        )
        config, inference = _configs(saved, folder)
        scaling = None
        if "scaling.mean" in tensors:
            scaling = _scaling(tensors, config)
        return cls(
            config,
            inference,
            below("params", tensors),
            tensors["log_prior"],
            tensors["gain"].squeeze(0),
            scaling,
            saved["feature_key"],
        )

    def with_inference(self, method: str) -> Selector:
        """The same weights with another way of inferring z.

        Raises:
            ConfigError: If there is no such way.
        """
        return replace(self, inference=self.inference.model_copy(update={"method": method}))


def _scaling(tensors: Mapping[str, Tensor], config: SelectorConfig) -> Scaling:
    """The scaling of a saved selector; one of an earlier release has neither rotation nor several layers."""
    standardiser = Standardiser(tensors["scaling.mean"].numpy(), tensors["scaling.scale"].numpy())
    rotation, blocks = tensors.get("scaling.rotation"), tensors.get("scaling.blocks")
    return Scaling(
        standardiser,
        config.normalise == "rms",
        None if rotation is None else rotation.numpy(),
        () if blocks is None else tuple(blocks.tolist()),
    )


def _configs(saved: Mapping[str, Any], folder: Path) -> tuple[SelectorConfig, InferenceConfig]:
    """The two sections of a saved selector's configuration; releases without ``rotation`` had none."""
    shape = {"rotation": "none"} | saved["selector"]
    try:
        inference = InferenceConfig.parse(saved["inference"], "inference")
        INFERENCES.check(inference.method, "configuration key 'inference.method'")
        return SelectorConfig.parse(shape, "selector"), inference
    except ConfigError as error:
        problem = f"cannot be used here: {error.where}: {error.problem}" if error.where else error.problem
        raise RunError(problem, fix=error.fix, where=str(folder / "config.json")) from error
