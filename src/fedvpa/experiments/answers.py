"""Answers of policies, sampled once and kept: judging again, or by more prompts, samples only what is not there yet.

Answers come in blocks of prompts, each with a random stream of its own, and only whole blocks are sampled. So the
answers to the first prompts do not depend on how many prompts there are, nor on what was kept before. Processes that
help this one (:func:`fedvpa.core.processes.lead`) sample their share of each block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from fedvpa.core.errors import DataError
from fedvpa.core.files import write_text
from fedvpa.core.seeds import Label
from fedvpa.core.version import __version__
from fedvpa.data.schema import Text
from fedvpa.policy.policy import Policy
from fedvpa.policy.sampling import Sampling
from fedvpa.policy.sampling_together import sample_together

BLOCK = 50
"""Prompts of a block. Chosen by us: enough to fill a GPU, and few to sample beyond what is asked for."""

BASE = "base policy"
"""The name of the base policy among policies, which are named after groups: no group can be the name of a file."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response and its length in tokens."""

    text: str
    tokens: int


class Answers:
    """The answers of some policies, and of their base policy, to the same prompts.

    Args:
        prompts: All of them: whole blocks, or fewer where there are no more.
        sampling: How answers are drawn.
        seed: Of the run; names, with the stream, the draws.
        contents: Name of a policy → its content, as a hash; ``BASE`` for the base policy.
        opened: Name → the policy; called only for answers that are not kept. For the base policy, any on that base.
        path: The file that keeps answers; None keeps them in memory.
    """

    def __init__(
        self,
        prompts: Sequence[Text],
        sampling: Sampling,
        seed: int,
        contents: Mapping[str, str],
        opened: Callable[[str], Policy],
        path: Path | None = None,
    ) -> None:
        self.prompts = list(prompts)
        self._sampling, self._seed, self._contents, self._opened, self._path = sampling, seed, contents, opened, path
        self._kept = _read(path) if path is not None and path.is_file() else {}

    def of(self, policy: str, z: Tensor | None, *stream: str) -> list[Answer]:
        """One answer to each prompt.

        Args:
            policy: Its name.
            z: What it follows at each prompt; None for a policy without z.
            *stream: Labels of the draws.
        """
        found: list[Answer] = []
        for start in range(0, len(self.prompts), BLOCK):
            part = slice(start, start + BLOCK)
            latents = None if z is None else z[part]
            key = self._key(policy, self.prompts[part], latents, [*stream, str(start // BLOCK)])
            if key not in self._kept:
                self._keep(key, self._sampled(policy, self.prompts[part], latents, stream, start // BLOCK))
            found += self._kept[key]
        return found

    def _sampled(
        self, name: str, prompts: Sequence[Text], z: Tensor | None, stream: Sequence[str], block: int
    ) -> list[Answer]:
        policy = self._opened(name)
        asked = policy.tokenizer.prompts(prompts)
        path: tuple[Label, ...] = ("duel", *stream, block)
        base = name == BASE
        latents = None if base else z
        samples = sample_together(policy, asked, latents, self._sampling, self._seed, *path, reference=base)
        return [Answer(policy.tokenizer.text(ids), len(ids)) for ids in samples]

    def _keep(self, key: str, answers: list[Answer]) -> None:
        self._kept[key] = answers
        if self._path is not None:
            lines = ({"key": name, "answers": [asdict(one) for one in kept]} for name, kept in self._kept.items())
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    def _key(self, policy: str, prompts: Sequence[Text], z: Tensor | None, stream: Sequence[str]) -> str:
        """Everything that decides the answers to a block. The batch is no part: it only moves rounding."""
        how = [self._sampling.temperature, self._sampling.top_p, self._sampling.max_new_tokens]
        latents = "" if z is None else hashlib.sha256(z.float().cpu().numpy().tobytes()).hexdigest()
        parts = [__version__, self._contents[policy], repr(list(prompts)), latents, how, self._seed, list(stream)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def whole_blocks(count: int) -> int:
    """How many prompts have to be answered so that ``count`` of them are, in whole blocks."""
    return -(-count // BLOCK) * BLOCK


def _read(path: Path) -> dict[str, list[Answer]]:
    found = {}
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            saved = json.loads(line)
            found[saved["key"]] = [Answer(**answer) for answer in saved["answers"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "this line holds no answers.", fix="Delete the file: it is made again.", where=f"{path}:{row}"
            ) from error
    return found
