"""What is asked of the engine, what comes back, and why it may refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import FedvpaError
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling

Finish = Literal["stop", "length"]
"""Why an answer ended: by itself or at a stop text, or because it had ``max_new_tokens``."""


class ServingError(FedvpaError, RuntimeError):
    """The engine cannot answer: it is full, closed, or has broken off."""


class QueueFull(ServingError):
    """As many requests wait as may.

    Args:
        waiting: How many wait.
        retry_after: Seconds after which it is worth to ask again.
    """

    def __init__(self, waiting: int, retry_after: float) -> None:
        self.waiting, self.retry_after = waiting, retry_after
        super().__init__(f"{waiting} requests wait already. Ask again in {retry_after:.0f} s.")


@dataclass(frozen=True, slots=True, repr=False)
class GenerationRequest:
    """One answer that is asked for.

    Attributes:
        prompt: Tokens, as :meth:`~fedvpa.policy.rows.PolicyTokenizer.prompts` gives them.
        z: The latent; None for a policy without z, and for the base model.
        sampling: Temperature, nucleus and longest answer; its ``batch`` means nothing here.
        seed: Names the draws: the same request gives the same answer, whatever is answered beside it, as far as
            rounding decides no draw. It is the answer that ``Policy.generate`` gives under this seed.
        base: Whether the base model answers, without adapter and z.
        stop: Texts that end the answer and are not part of it, besides those of the tokenizer.
        top_logprobs: None for no log-probabilities; n for each token's own and those of the n likeliest tokens.
    """

    prompt: Ids
    z: Float[Tensor, " k"] | None
    sampling: Sampling
    seed: int
    base: bool = False
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None

    __repr__ = short_repr


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token that was drawn.

    Attributes:
        id: The token.
        text: What it says alone; a part of a character is U+FFFD.
        logprob: In nats, of the model as it is: at temperature 1, without a nucleus.
        top: (id, text, logprob) of the likeliest tokens at its place, the likeliest first.
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one or several steps added to an answer.

    Attributes:
        text: Whole characters. The beginning of a stop text is held back until it is clear that it is none.
        ids: The tokens, one that ends the answer included.
        logprobs: Of each of them, if they were asked for.
        finish: Why the answer ended; None before its last piece.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish: Finish | None

    def __add__(self, other: Piece) -> Piece:
        return Piece(self.text + other.text, self.ids + other.ids, self.logprobs + other.logprobs, other.finish)


def closed() -> ServingError:
    """What readers are told whose answers were not done."""
    return ServingError("The engine was closed before the answer was complete.")


def as_error(error: Exception) -> FedvpaError:
    """An error as readers are told it."""
    if isinstance(error, FedvpaError):
        return error
    found = ServingError(f"The engine could not go on with this answer: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found
