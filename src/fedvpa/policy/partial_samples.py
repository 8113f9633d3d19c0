"""Samples of a policy that are not all there yet: kept on disk after each block, so that Ctrl-C loses one at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedvpa.core.progress import say
from fedvpa.core.tensors import write_tensors
from fedvpa.policy.rows import Ids


@dataclass(frozen=True)
class PartialSamples:
    """A file of the first responses of one call of ``sample``; the caller removes it when the whole is kept elsewhere.

    Attributes:
        path: The file. Its name says what is sampled, as that of the whole does.
    """

    path: Path

    def load(self) -> list[Ids]:
        """The responses that are there; none if there is no such file, or it is damaged, which is said."""
        if not self.path.is_file():
            return []
        try:
            saved = load_file(self.path)
        except (OSError, SafetensorError) as error:
            say(f"{self.path} cannot be read ({error}): everything is sampled again")
            return []
        found = list(np.split(saved["responses"].numpy(), np.cumsum(saved["lengths"].numpy())[:-1]))
        say(f"{len(found)} responses were sampled before")
        return found

    def save(self, responses: Sequence[Ids]) -> None:
        """Replace the file by these, atomically."""
        lengths = torch.tensor([len(ids) for ids in responses])
        write_tensors(self.path, {"responses": torch.from_numpy(np.concatenate(responses)), "lengths": lengths})

    def remove(self) -> None:
        """Remove the file, if it is there."""
        self.path.unlink(missing_ok=True)
