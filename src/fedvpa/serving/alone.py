"""One answer at a time, by ``generate`` of transformers, for architectures whose cache cannot be repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from torch import Tensor

from fedvpa.core.errors import TrainingError
from fedvpa.models.quiet import quiet
from fedvpa.policy.generation import generated
from fedvpa.policy.policy import Policy
from fedvpa.serving.draws import draw, no_numbers
from fedvpa.serving.readers import ApartReader
from fedvpa.serving.row import Row


class _Over(Exception):
    """Leaves ``generate``, which has no other end between two tokens."""


def answer_alone(policy: Policy, row: Row, stopped: Callable[[], bool]) -> TrainingError | None:
    """Draw a whole answer.

    Args:
        policy: In evaluation mode.
        row: Takes the tokens as they are drawn.
        stopped: Whether nobody wants the rest; asked at each token.

    Returns:
        What went wrong, if the logits are no finite numbers.
    """
    failed = False

    def drawn(logits: Tensor, step: int, rows: Tensor) -> Tensor:
        nonlocal failed
        tokens, places = draw([row], logits)
        failed = bool(places)
        if failed or row.finished or stopped():
            raise _Over
        return tokens

    request = row.request
    z = None if request.z is None else request.z[None].to(policy.device)
    with contextlib.suppress(_Over), quiet(), ApartReader(policy).prefilling(request.base) as network:
        generated(network, [request.prompt], z, request.sampling, drawn, [()])
    return no_numbers() if failed else None
