"""Frozen data classes as named tensors and back: so a method writes no code to save or send its state.

A field of a class may be annotated as

- ``Tensor`` (or jaxtyping's, with a shape), ``int``, ``float``, ``bool``, ``str`` or ``tuple[str, ...]``;
- ``Tree``, which is ``dict[str, Tensor]``: the names of its leaves become names of tensors, so they are the code's own.
  Files of tensors keep no order, so the tensor of the field's own name holds the place of each leaf among the sorted;
- another such data class;
- ``Mapping[str, X]`` with X any of these: its keys are client ids, of any text, and its values are held stacked
  (:func:`fedvpa.core.stacked.encode_each`);
- ``X | None`` with X any of these.

What comes back equals what was given bit for bit, with the order of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from fedvpa.core.stacked import decode_each, encode_each, names_of, names_tensor
from fedvpa.core.tree import Tree

T = TypeVar("T")

_Suffixed = dict[str, Tensor]
"""Tensors by what is put behind the name of their field: nothing, or a dot and more."""

_INT64 = torch.iinfo(torch.int64)


def to_tensors(value: Any) -> Tree:
    """A frozen data class as named tensors.

    Args:
        value: The data class, with fields as the module says.

    Returns:
        Tensors named ``field`` or ``field.part``, which share their memory with those of ``value``. A number is a
        scalar of type int64, float64 or bool.

    Raises:
        TypeError: If a field is annotated otherwise, or holds something else than its annotation says.
    """
    return {name[1:]: leaf for name, leaf in _codec(type(value)).encode(value).items()}


def from_tensors(cls: type[T], tensors: Mapping[str, Tensor]) -> T:
    """What :func:`to_tensors` was given.

    Args:
        cls: The class of the value.
        tensors: What ``to_tensors`` returned.

    Raises:
        TypeError: If a field of ``cls`` is annotated as nothing that can be held.
        ValueError: If a tensor is missing, or belongs to no field.
    """
    return cast(T, _codec(cls).decode({f".{name}": leaf for name, leaf in tensors.items()}))


class _Codec(NamedTuple):
    """How values of one annotation become tensors. ``encode`` raises TypeError, ``decode`` KeyError or ValueError."""

    encode: Callable[[Any], _Suffixed]
    decode: Callable[[_Suffixed], Any]


def _codec(hint: Any) -> _Codec:
    return _made(cast(Hashable, hint))


@cache
def _made(hint: Hashable) -> _Codec:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if getattr(hint, "array_type", None) is Tensor:
        return _PLAIN[Tensor]
    if isinstance(hint, type) and is_dataclass(hint):
        return _data_class(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType) and len(arguments) == 2 and NoneType in arguments:
        return _optional(_codec(next(argument for argument in arguments if argument is not NoneType)))
    if origin is Mapping and arguments == (str, Tree):
        return _TREES
    if origin is Mapping and arguments[0] is str:
        return _mapping(_codec(arguments[1]))
    raise TypeError(f"is annotated as {hint}, which cannot be held as tensors")


def _data_class(cls: type) -> _Codec:
    hints = get_type_hints(cls)
    codecs: dict[str, _Codec] = {}
    for entry in fields(cls):
        try:
            codecs[entry.name] = _codec(hints[entry.name])
        except TypeError as error:
            raise TypeError(f"{cls.__name__}.{entry.name} {error}") from error

    def encode(value: Any) -> _Suffixed:
        if type(value) is not cls:
            raise TypeError(f"is {value!r}, and not a {cls.__name__}")
        encoded: _Suffixed = {}
        for name, codec in codecs.items():
            try:
                parts = codec.encode(getattr(value, name))
            except TypeError as error:
                raise TypeError(f"{cls.__name__}.{name} {error}") from error
            encoded.update({f".{name}{suffix}": leaf for suffix, leaf in parts.items()})
        return encoded

    def decode(tensors: _Suffixed) -> Any:
        parts: dict[str, _Suffixed] = {name: {} for name in codecs}
        for suffixed, leaf in tensors.items():
            name, dot, rest = suffixed[1:].partition(".")
            if name not in parts:
                raise ValueError(f"{cls.__name__} has no field {name!r}")
            parts[name][f"{dot}{rest}"] = leaf
        return cls(**{name: _decoded(cls, name, codec, parts[name]) for name, codec in codecs.items()})

    return _Codec(encode, decode)


def _decoded(cls: type, name: str, codec: _Codec, parts: _Suffixed) -> Any:
    try:
        return codec.decode(parts)
    except KeyError as error:
        raise ValueError(
            f"{cls.__name__} needs the tensor {name + str(error.args[0])!r}, which is not there"
        ) from error


def _optional(inner: _Codec) -> _Codec:
    """``X | None``: whether there is a value, and the value."""

    def encode(value: Any) -> _Suffixed:
        parts = {} if value is None else {f".value{suffix}": leaf for suffix, leaf in inner.encode(value).items()}
        return {".given": torch.tensor(value is not None)} | parts

    def decode(tensors: _Suffixed) -> Any:
        return inner.decode(_behind(".value", tensors)) if tensors[".given"] else None

    return _Codec(encode, decode)


def _mapping(inner: _Codec) -> _Codec:
    """``Mapping[str, X]``: keys and stacked values."""

    def encode(value: Any) -> _Suffixed:
        if not isinstance(value, Mapping):
            raise TypeError(f"is {value!r}, and not a mapping")
        return _dotted(encode_each({key: inner.encode(entry) for key, entry in value.items()}))

    def decode(tensors: _Suffixed) -> dict[str, Any]:
        entries = decode_each({suffix[1:]: leaf for suffix, leaf in tensors.items()})
        return {key: inner.decode(entry) for key, entry in entries.items()}

    return _Codec(encode, decode)


def _behind(suffix: str, tensors: _Suffixed) -> _Suffixed:
    return {name.removeprefix(suffix): leaf for name, leaf in tensors.items() if name.startswith(suffix)}


def _dotted(tree: Mapping[str, Tensor]) -> _Suffixed:
    return {f".{name}": leaf for name, leaf in tree.items()}


def _single(kind: type, tensor: Callable[[Any], Tensor], value: Callable[[Tensor], Any]) -> _Codec:
    """A field that is one tensor."""

    def encode(given: Any) -> _Suffixed:
        _check(kind, given)
        return {"": tensor(given)}

    return _Codec(encode, lambda tensors: value(tensors[""]))


def _check(kind: type, given: Any) -> None:
    """Refuse a value of another type; a bool is no int here, and an int no float."""
    if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
        raise TypeError(f"is annotated as {kind.__name__}, and it is {given!r}")


def _whole(given: int) -> Tensor:
    if not _INT64.min <= given <= _INT64.max:
        raise TypeError(f"is {given}, which does not fit into 64 bits")
    return torch.tensor(given, dtype=torch.int64)


def _words(given: Any) -> _Suffixed:
    if not (isinstance(given, tuple) and all(isinstance(word, str) for word in given)):
        raise TypeError(f"is annotated as tuple[str, ...], and it is {given!r}")
    return _dotted(names_tensor(given))


def _text(given: Any) -> _Suffixed:
    _check(str, given)
    return {"": names_tensor((given,))["bytes"]}


def _read_text(tensors: _Suffixed) -> str:
    return tensors[""].numpy().tobytes().decode("utf-8", "surrogatepass")


def _tree(given: Any) -> _Suffixed:
    if not (isinstance(given, dict) and all(isinstance(leaf, Tensor) for leaf in given.values())):
        raise TypeError(f"is annotated as a tree of tensors, and it is {given!r}")
    names = sorted(given)
    ranks = {name: rank for rank, name in enumerate(names)}
    return {"": torch.tensor([ranks[name] for name in given], dtype=torch.int64)} | _dotted(given)


def _read_tree(tensors: _Suffixed) -> Tree:
    names = sorted(suffix[1:] for suffix in tensors if suffix)
    order = tensors[""].tolist()
    if len(order) != len(names):
        raise ValueError(f"{len(names)} leaves are there ({', '.join(names)}), and {len(order)} were saved")
    return {names[rank]: tensors[f".{names[rank]}"] for rank in order}


def _trees(given: Any) -> _Suffixed:
    if not isinstance(given, Mapping):
        raise TypeError(f"is annotated as a mapping of trees, and it is {given!r}")
    return _dotted(encode_each(given))


_TREES = _Codec(_trees, lambda tensors: decode_each({suffix[1:]: leaf for suffix, leaf in tensors.items()}))
"""``Mapping[str, Tree]``, without work for each tree. Leaves come back in the order in which they were first met."""

_PLAIN: dict[Any, _Codec] = {
    Tensor: _single(Tensor, lambda given: given, lambda tensor: tensor),
    int: _single(int, _whole, Tensor.item),
    float: _single(float, lambda given: torch.tensor(given, dtype=torch.float64), Tensor.item),
    bool: _single(bool, torch.tensor, Tensor.item),
    str: _Codec(_text, _read_text),
    tuple[str, ...]: _Codec(_words, lambda tensors: names_of({suffix[1:]: leaf for suffix, leaf in tensors.items()})),
    Tree: _Codec(_tree, _read_tree),
}
