"""How long a client's change of an adapter is likely to be, from the settings alone: where a clip under noise starts.

Nothing that clients hold may enter, since where the clip starts is published. Adam moves each weight by about its
learning rate η in a step, so that s steps move n weights by at most about η·s·√n; a client's steps disagree, so that
its change is shorter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedvpa.algorithms.server.validation import PrivatePart, Shape
from fedvpa.privacy.mechanism import WHOLE

SHARE = 0.6
"""The change of a client over η·s·√n. Measured on the bundled world: 0.6 in every round of FedDPO, and of FIRM."""


def adam_part(lr: float, steps: int, moved: Mapping[str, Shape], scale: float = 1.0) -> dict[str, PrivatePart]:
    """The whole change as one part, whose clip starts at ``SHARE``·η·s·√n.

    Args:
        lr: η, its peak where it follows a schedule.
        steps: s, the local steps of a round.
        moved: Name of each trained weight → its shape.
        scale: The factor of the peak in this round.
    """
    weights = sum(math.prod(shape) for shape in moved.values())
    return {WHOLE: PrivatePart(start=SHARE * lr * steps * math.sqrt(max(weights, 1)), scale=scale)}
