"""The prompts of requests as tokens, whole: nothing of them is cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvpa.core.errors import DataError, ModelError
from fedvpa.data.schema import Text
from fedvpa.models.encoding import TextEncoder
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.serving.errors import ApiError


def chat_prompt(policy: Policy, messages: Text, param: str = "messages") -> Ids:
    """The tokens of a conversation, whole.

    Raises:
        ApiError: If the chat template of the base model refuses it, or there is none.
    """
    try:
        return _whole(policy.tokenizer.encoder, messages, param)
    except ModelError as error:
        raise ApiError(
            400, f"{error.problem} Ask /v1/completions with a string.", param=param, code="no_chat_template"
        ) from error
    except DataError as error:
        raise ApiError(400, str(error), param=param) from error


def text_prompt(plain: TextEncoder, text: str, param: str) -> Ids:
    """The tokens of a text as it is.

    Args:
        plain: From :attr:`fedvpa.serving.catalogue.Served.plain`.
        text: The text.
        param: The field of the request that holds it, for messages.

    Raises:
        ApiError: If it has none.
    """
    return _whole(plain, text, param)


def token_prompt(policy: Policy, tokens: Sequence[int], param: str) -> Ids:
    """Tokens as they are given.

    Raises:
        ApiError: If there are none, or one is no token of the vocabulary.
    """
    size = int(policy.model.get_input_embeddings().weight.shape[0])
    wrong = next((token for token in tokens if not 0 <= token < size), None)
    if wrong is not None:
        raise ApiError(400, f"{wrong} is no token; this model has {size}, from 0.", param=param)
    if not tokens:
        raise ApiError(400, "The prompt has no tokens.", param=param)
    return np.asarray(tokens, np.int32)


def _whole(encoder: TextEncoder, text: Text, param: str) -> Ids:
    found = encoder.prompt(text)
    ids = np.concatenate([np.asarray(found.head, np.int32), found.ids])
    if not len(ids):
        raise ApiError(400, "The prompt has no tokens, and this model puts none in front.", param=param)
    return ids
