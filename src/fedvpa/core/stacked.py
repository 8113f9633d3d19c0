"""The trees of many clients as a few stacked tensors, and names as tensors.

A checkpoint holds something for each client. A file with one tensor for each client has a header that grows with the
clients, and saving it takes a loop over them. Here each leaf is one tensor over all clients that have it, so the header
stays small and the work is done by ``torch.stack``, ``torch.cat`` and ``torch.unbind``.

Names may be any text, lone surrogates included, so they are held as bytes and lengths, never in a file's header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from fedvpa.core.tree import Tree, below, prefixed


def names_tensor(names: Sequence[str]) -> Tree:
    """Names as tensors.

    Args:
        names: Any texts, in any order; the same text may stand more than once.

    Returns:
        ``bytes`` [total], uint8: UTF-8, surrogates as three bytes each; ``lengths`` [names], int64: bytes of each.
    """
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]
    text = bytearray(b"".join(encoded))
    return {
        "bytes": torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8),
        "lengths": torch.tensor([len(name) for name in encoded], dtype=torch.int64),
    }


def names_of(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What :func:`names_tensor` encoded.

    Raises:
        ValueError: If the lengths do not fit the bytes.
    """
    text = tensors["bytes"].numpy().tobytes()
    ends = list(accumulate(tensors["lengths"].tolist(), initial=0))
    if ends[-1] != len(text):
        raise ValueError(f"{len(ends) - 1} names take {ends[-1]} bytes, and {len(text)} bytes are there")
    return tuple(text[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(ends))


def encode_each(values: Mapping[str, Mapping[str, Tensor]]) -> Tree:
    """The trees of all clients as tensors whose number does not depend on how many clients there are.

    Leaves of one name are put together by their kind, which is the type of their numbers and their shape without its
    first axis. A block is what one kind becomes:

    - ``data``: the leaves stacked along a new first axis, or joined along the first one where its length differs;
    - ``lengths`` [rows]: the length of each, only where it differs;
    - ``rows`` [rows]: which clients have it, by their place in ``keys``; only where not all do.

    Args:
        values: Client id → its tree. Trees may have different leaves.

    Returns:
        ``keys.*`` and ``leaves.*``, which are names as of :func:`names_tensor`; ``LEAF.KIND.data``, ``.lengths`` and
        ``.rows``, with the number of the leaf in ``leaves`` and the number of the kind.
    """
    trees = list(values.values())
    leaves = list(dict.fromkeys(name for tree in trees for name in tree))
    encoded = prefixed("keys", names_tensor(list(values))) | prefixed("leaves", names_tensor(leaves))
    for number, name in enumerate(leaves):
        for kind, having in enumerate(_rows_by_kind(trees, name)):
            block = _block([trees[row][name] for row in having])
            if len(having) < len(trees):
                block["rows"] = torch.tensor(having, dtype=torch.int64)
            encoded |= prefixed(f"{number}.{kind}", block)
    return encoded


def decode_each(tensors: Mapping[str, Tensor]) -> dict[str, Tree]:
    """What :func:`encode_each` encoded, bit for bit and in the same order of clients.

    The leaves of every tree stand in the order of ``leaves``. Each is in memory of its own, aligned as torch does it:
    kernels may round differently on a tensor at an odd address.

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If names or lengths do not fit.
    """
    keys = names_of(below("keys", tensors))
    decoded: list[Tree] = [{} for _ in keys]
    for number, name in enumerate(names_of(below("leaves", tensors))):
        kinds = below(str(number), tensors)
        for kind in dict.fromkeys(key.partition(".")[0] for key in kinds):
            block = below(kind, kinds)
            rows = block["rows"].tolist() if "rows" in block else range(len(keys))
            for row, leaf in zip(rows, _unblock(block), strict=True):
                decoded[row][name] = leaf
    return dict(zip(keys, decoded, strict=True))


def _rows_by_kind(trees: Sequence[Mapping[str, Tensor]], name: str) -> list[list[int]]:
    """The places of the trees that have a leaf, for each kind of it."""
    rows = [row for row, tree in enumerate(trees) if name in tree]
    leaves = [trees[row][name] for row in rows]
    if len({leaf.shape for leaf in leaves}) == len({leaf.dtype for leaf in leaves}) == 1:
        return [rows]
    kinds: dict[tuple[torch.dtype, int, torch.Size], list[int]] = {}
    for row, leaf in zip(rows, leaves, strict=True):
        kinds.setdefault((leaf.dtype, leaf.dim(), leaf.shape[1:]), []).append(row)
    return list(kinds.values())


def _block(leaves: list[Tensor]) -> Tree:
    """Leaves of one kind as one tensor."""
    if len({leaf.shape for leaf in leaves}) == 1:
        return {"data": torch.stack(leaves)}
    return {"data": torch.cat(leaves), "lengths": torch.tensor([len(leaf) for leaf in leaves], dtype=torch.int64)}


def _unblock(block: Mapping[str, Tensor]) -> list[Tensor]:
    data = block["data"]
    views = data.split(block["lengths"].tolist()) if "lengths" in block else data.unbind()
    return [view.clone() for view in views]
