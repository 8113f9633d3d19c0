"""Token rows → the mean hidden state of each response, with the prompt computed once where the model allows it.

Two methods that agree:

- *separate*: one row per response, prompt + response. Any model.
- *shared*: one row per pair, [prefix, chosen, rejected], under a tree mask: each response sees the prefix and itself,
  and the rejected one counts its positions on from the prefix. The prefix is computed once instead of twice.

Sharing needs a decoder-only model that obeys a custom mask and custom positions. Names of architectures do not tell
that reliably, so :func:`sharing_obstacle` computes a small batch by both and compares. A layer with an attention
window would need a mask of its own; where prefix and longer response fit into the window, the window hides nothing and
the tree mask is right, and longer rows are computed separately.

Keeping the prompt's key-value cache and running both responses on it was measured too (Qwen2 architecture, CPU, 2,048
tokens per batch): as fast at fixed lengths and 1.5 times slower at variable ones, since prompts and responses are then
padded apart. So there is one shared method.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import ModelError
from fedvpa.features.backbone import Backbone
from fedvpa.features.tokens import Row
from fedvpa.models.agreement import AGREEMENT, REJECTIONS, probe_tokens, relative_difference
from fedvpa.models.tokens import Frame
from fedvpa.models.tree import tree_mask


def separate(backbone: Backbone, frame: Frame, rows: Sequence[Row]) -> Float[Tensor, "rows 2 d"]:
    """Mean hidden states over the tokens of the chosen and of the rejected response, one sequence per response.

    Those of several layers lie side by side, in the order of ``backbone.layers``; one forward pass gives all. Zeros
    stand for a rejected response without tokens, for which nothing is computed. Sequences are padded on the right.
    Works for every model.
    """
    responses = [(row, response) for row in rows for response in (row.chosen, row.rejected)]
    sequences = [(row.prefix, response) for row, response in responses if len(response)]
    length = max(len(prefix) + len(response) for prefix, response in sequences) + len(frame.after)
    ids = np.full((len(sequences), length), backbone.pad_id, dtype=np.int64)
    seen, types = np.zeros_like(ids), np.zeros_like(ids)
    weights = np.zeros((len(sequences), 1, length), dtype=np.float32)
    for place, (prefix, response) in enumerate(sequences):
        start, stop = len(prefix), len(prefix) + len(response)
        tokens = np.concatenate([prefix, response, np.asarray(frame.after, np.int32)])
        ids[place, : len(tokens)], seen[place, : len(tokens)] = tokens, 1
        types[place, start : len(tokens)] = frame.response_type or 0
        weights[place, 0, start:stop] = 1 / len(response)
    inputs = {"input_ids": ids, "attention_mask": seen}
    if frame.response_type is not None and "token_type_ids" in _arguments(backbone):
        inputs["token_type_ids"] = types
    states = _states(backbone, **{name: torch.from_numpy(value) for name, value in inputs.items()})
    means = _pool_all(states, torch.from_numpy(weights))[:, 0]
    placed = means.new_zeros(len(responses), means.shape[1])
    placed[[place for place, (_, response) in enumerate(responses) if len(response)]] = means
    return placed.reshape(len(rows), 2, -1)


def shared(backbone: Backbone, rows: Sequence[Row]) -> Float[Tensor, "rows 2 d"]:
    """The same means from one row per pair, [prefix, chosen, rejected], under a tree mask.

    Only for models for which :func:`sharing_obstacle` finds none.
    """
    length = max(row.packed for row in rows)
    ids = np.full((len(rows), length), backbone.pad_id, dtype=np.int64)
    positions = np.zeros_like(ids)
    branch = np.full((len(rows), length), 3, dtype=np.int8)  # 0 prefix, 1 chosen, 2 rejected, 3 padding
    weights = np.zeros((len(rows), 2, length), dtype=np.float32)
    for place, row in enumerate(rows):
        fork, turn, stop = len(row.prefix), len(row.prefix) + len(row.chosen), row.packed
        ids[place, :stop] = np.concatenate([row.prefix, row.chosen, row.rejected])
        positions[place, :turn] = np.arange(turn)
        positions[place, turn:stop] = np.arange(fork, fork + len(row.rejected))
        branch[place, :fork], branch[place, fork:turn], branch[place, turn:stop] = 0, 1, 2
        weights[place, 0, fork:turn] = 1 / len(row.chosen)
        weights[place, 1, turn:stop] = 1 / max(1, len(row.rejected))
    states = _states(
        backbone,
        input_ids=torch.from_numpy(ids),
        attention_mask=tree_mask(torch.from_numpy(branch), backbone.dtype),
        position_ids=torch.from_numpy(positions),
    )
    return _pool_all(states, torch.from_numpy(weights))


def sharing_obstacle(backbone: Backbone) -> str:
    """Why the prompt cannot be computed once for both responses; empty if it can.

    Computes a batch of two unequal pairs by both methods and compares. Catches recurrent layers, position biases by
    distance in memory, learned positions that ignore ``position_ids``, attention kernels without custom masks, and
    windows shorter than the probe.
    """
    if backbone.kind == "encoder":
        return "attention is bidirectional"
    if "position_ids" not in _arguments(backbone):
        return "the model takes no position ids"
    rows = [_probe_row(backbone, 5, 4, 3), _probe_row(backbone, 3, 2, 2)]
    try:
        difference = _differ(backbone, shared(backbone, rows), separate(backbone, Frame(), rows))
    except REJECTIONS as error:
        return f"the model rejects a custom mask ({type(error).__name__})"
    # Written so that NaN counts as disagreement.
    if not difference <= AGREEMENT[backbone.dtype]:
        return f"a shared prompt changes the features (by {difference:.1e} of their norm)"
    return ""


def check_causal(backbone: Backbone) -> None:
    """Check that a model that is declared decoder-only does not see the future.

    Raises:
        ModelError: If a later token changes an earlier hidden state.
    """
    row = _probe_row(backbone, 1, 7, 7)
    changed = row.chosen.copy()
    changed[-1] = (changed[-1] + 1) % int(backbone.model.get_input_embeddings().num_embeddings)
    ids = torch.from_numpy(np.stack([row.chosen, changed]).astype(np.int64))
    states = _states(backbone, input_ids=ids, attention_mask=torch.ones_like(ids))
    if max(relative_difference(*layer[:, :-1]) for layer in states) > AGREEMENT[backbone.dtype]:
        raise ModelError(
            f"{backbone.model.config.model_type!r} counts as decoder-only, but its states see later tokens.",
            fix="Use a decoder-only model with causal attention, or an encoder that transformers lists as such.",
            where=backbone.name,
        )


def dimension(backbone: Backbone) -> int:
    """The length of a feature vector: the widths of the pooled layers added up.

    Raises:
        ModelError: If they differ, since whoever reads the features tells layers apart by their common width.
    """
    ids = torch.from_numpy(_probe_row(backbone, 1, 1, 1).chosen.astype(np.int64))[None]
    widths = [layer.shape[-1] for layer in _states(backbone, input_ids=ids, attention_mask=torch.ones_like(ids))]
    if len(set(widths)) > 1:
        raise ModelError(
            f"The layers {list(backbone.layers)} have different widths ({', '.join(map(str, widths))}).",
            fix="Take layers of one width: features.layer.",
            where=backbone.name,
        )
    return sum(widths)


def _probe_row(backbone: Backbone, prefix: int, chosen: int, rejected: int) -> Row:
    tokens = probe_tokens(backbone.model, prefix + chosen + rejected)
    return Row(tokens[:prefix], tokens[prefix : prefix + chosen], tokens[prefix + chosen :])


def _differ(backbone: Backbone, one: Tensor, other: Tensor) -> float:
    """The largest relative difference of a layer: one with large states must not hide that of another."""
    count = len(backbone.layers)
    layers = zip(one.chunk(count, -1), other.chunk(count, -1), strict=True)
    return max(relative_difference(here, there) for here, there in layers)


def _arguments(backbone: Backbone) -> frozenset[str]:
    return frozenset(inspect.signature(backbone.model.forward).parameters)


@torch.inference_mode()
def _states(backbone: Backbone, **inputs: Tensor) -> list[Tensor]:
    """Hidden states [rows, length, d] of each configured layer."""
    options = {"use_cache": False} if "use_cache" in _arguments(backbone) else {}
    placed = {name: value.to(backbone.device) for name, value in inputs.items()}
    with backbone.frozen():
        if backbone.layers == (-1,):
            return [backbone.model(**placed, **options).last_hidden_state]
        found = backbone.model(**placed, **options, output_hidden_states=True)
        return [found.last_hidden_state if layer == -1 else found.hidden_states[layer] for layer in backbone.layers]


def _pool_all(states: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The pooled states of each layer, side by side: [rows, length, d] each → [rows, k, layers · d]."""
    return torch.cat([_pool(layer, weights) for layer in states], dim=-1)


@torch.inference_mode()
def _pool(states: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over tokens in float32, on the CPU: [rows, length, d], [rows, k, length] → [rows, k, d]."""
    return (weights.to(states.device) @ states.float()).cpu()
