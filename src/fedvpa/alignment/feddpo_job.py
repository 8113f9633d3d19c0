"""FedDPO on the training pairs of the seen clients, round by round; see :mod:`fedvpa.algorithms.feddpo`."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from accelerate import PartialState
from torch import Tensor

from fedvpa.algorithms.feddpo import METHOD, FedDPOState, client_examples, settle, train_feddpo
from fedvpa.alignment.job import cohorts, title
from fedvpa.alignment.stage1 import ONE
from fedvpa.core.progress import say
from fedvpa.core.tree import Tree
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair
from fedvpa.features.config import FeatureConfig
from fedvpa.models.encoding import SAME_TOKENS, place_of
from fedvpa.policy.adapters import snapshot
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.rows import equal_rows, say_cuts
from fedvpa.policy.templates import with_template


class FedDPOJob:
    """The policy of the last round.

    It has no selector that could choose a stopping step on public prompts, so it runs to the end of its schedule.

    Args:
        settings: Stage 2.
        features: Names the base model, if ``settings`` does not, and the device.
        pairs: Client id → its training pairs.
        seed: Names its random streams.
        strict: Whether a pair that is left out is an error (``data.strict``).
    """

    method, name = METHOD, ONE
    unit: Literal["round"] = "round"

    def __init__(
        self,
        settings: PolicyConfig,
        features: FeatureConfig,
        pairs: Mapping[str, Sequence[Pair]],
        seed: int,
        *,
        strict: bool = False,
    ) -> None:
        self.settings, self.seed = settings, seed
        self._policy = new_policy(with_template(settings, features), features.model, None, seed, device=features.device)
        self._state = FedDPOState(snapshot(self._policy))
        everything = [pair for own in pairs.values() for pair in own]
        tokens, cut = self._policy.tokenizer.pairs(everything)
        self._report = _left_out(everything, equal_rows(tokens), strict)
        say_cuts(cut, f"{len(everything)} training pairs")
        self._examples = {name: client_examples(self._policy, own) for name, own in pairs.items()}
        self._counts: dict[str, Any] = {"uplink_bytes": 0, "rejected": 0}

    @property
    def title(self) -> str:
        """See :class:`~fedvpa.core.loop.Job`."""
        return title(self.method, self.name)

    @property
    def total(self) -> int:
        """Rounds."""
        return self.settings.feddpo.rounds

    @property
    def done(self) -> int:
        """Rounds behind it."""
        return self._state.round

    @property
    def is_main(self) -> bool:
        """See :class:`~fedvpa.core.loop.Job`."""
        return bool(PartialState().is_main_process)

    @property
    def checkpoint_due(self) -> bool:
        """After every round, unless checkpoints are off: a round is long."""
        return bool(self.settings.checkpoint_every)

    def run(self) -> Generator[dict[str, Any], None, None]:
        """See :class:`~fedvpa.core.loop.Job`."""
        asked = cohorts(list(self._examples), self.settings.feddpo.cohort, self.seed, "policy.feddpo.cohort")
        rounds = train_feddpo(self._policy, self._examples, self.settings, self.seed, asked, self._state)
        for state, result in rounds:
            self._state = state
            rejected = self._counts["rejected"] + len(result.rejected)
            self._counts = {"uplink_bytes": result.uplink_bytes, "rejected": rejected}
            yield asdict(result)

    def state(self) -> tuple[Tree, dict[str, str]]:
        """What the server knows; clients keep nothing from round to round."""
        return self._state.tensors(), {"told": json.dumps(self._counts)}

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """See :class:`~fedvpa.alignment.job.AlignmentJob`."""
        self._state, self._counts = FedDPOState.of(tensors), json.loads(notes["told"])

    def finish(self) -> tuple[Policy, dict[str, Any]]:
        """The policy of the last round; rounds, averaging, bytes that the last round sent, rejected updates."""
        settle(self._policy, self._state)
        averaging = self.settings.feddpo.averaging
        notes = {"rounds": self._state.round, "averaging": averaging, **self._counts}
        return self._policy.eval(), notes | {"data": self._report.to_dict()}


def _left_out(pairs: Sequence[Pair], equal: Sequence[int], strict: bool) -> DataReport:
    """What of the training pairs is left out; said on the terminal too."""
    report = DataReport(len(pairs), strict)
    for row in equal:
        report = report.add(SAME_TOKENS, place_of(pairs[row], row))
    for line in report.lines("training pairs"):
        say(line)
    return report
