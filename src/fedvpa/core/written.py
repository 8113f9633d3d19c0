"""Values as they were written: a key whose type is text takes the text as it is.

YAML reads ``on`` as true, ``4.1`` as a number, ``007`` as 7, ``null`` and nothing as null, ``2024-05-01`` as a date.
For a key whose type is text (a string, a path, or one of some words) that is never meant. So a value keeps its text
until the type of its key is known:

- ``key=value`` on a command line: a text key takes everything behind the equals sign as it is, also nothing; other
  keys read it as YAML. Where a text key may also be unset, ``null`` and nothing unset it.
- A YAML file: a text key takes an unquoted value as it is written, except ``null``, ``~`` and nothing, by which a file
  (such as a run's own) says that a key is unset. The items of a list of texts, the values of a mapping to texts, and
  the keys of every mapping are texts likewise.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from fedvpa.core.config import Config

UNSET_WORDS = ("", "~", "null", "Null", "NULL")
"""How YAML writes null."""

SectionOf = Callable[[tuple[str, ...], Mapping[str, Any]], type[Config] | None]
"""The path of a key that holds settings, and what stands beside it → the section that declares them, if it is known."""


@dataclass(frozen=True)
class Given:
    """What stands behind the equals sign of an override."""

    text: str


@dataclass(frozen=True)
class Scalar:
    """An unquoted value in YAML that is no string there.

    Attributes:
        text: As it is written.
        value: What YAML makes of it.
    """

    text: str
    value: Any


class NotYaml(ValueError):
    """The text of an override whose key is no text is not YAML.

    Args:
        key: The dotted key.
        text: The text.
        problem: What is wrong.
    """

    def __init__(self, key: str, text: str, problem: str) -> None:
        self.key, self.text = key, text
        super().__init__(problem)


class _Loader(yaml.SafeLoader):
    """Keeps the text of unquoted values."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None and not isinstance(value, str)
        return Scalar(node.value, value) if plain else value


def read_yaml(text: str) -> Any:
    """YAML, with a :class:`Scalar` for each unquoted value that is no string.

    Raises:
        ValueError: If it is not YAML, or holds a value that cannot be (the 13th month).
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def settled(
    values: Mapping[str, Any], section: type[Config], section_of: SectionOf = lambda *_: None
) -> dict[str, Any]:
    """The values of a section with each text read by the type of its key.

    Args:
        values: Key → value; those that are neither :class:`Given` nor :class:`Scalar` stay as they are.
        section: The section.
        section_of: Says which section declares the keys of a mapping whose values can be anything.

    Raises:
        NotYaml: If the text of a key that is no text is not YAML.
    """
    return _section(values, section, section_of, ())


def _section(
    values: Mapping[Any, Any], section: type[Config], section_of: SectionOf, path: tuple[str, ...]
) -> dict[str, Any]:
    names = {_name(name): value for name, value in values.items()}
    found: dict[str, Any] = {}
    # What can be anything comes last: its section depends on what stands beside it.
    for name in sorted(names, key=lambda one: _is_open(section, one)):
        field = section.model_fields.get(name)
        kind = Any if field is None else field.annotation
        inner = section_of((*path, name), found) if _is_open(section, name) else None
        found[name] = _settled(names[name], inner or kind, section_of, (*path, name))
    return {name: found[name] for name in names}


def _settled(value: Any, kind: Any, section_of: SectionOf, path: tuple[str, ...]) -> Any:
    members = _members(kind)
    if isinstance(value, Scalar):
        return value.text if _is_text(members) and value.value is not None else value.value
    if isinstance(value, Given):
        if _is_text(members):
            return None if type(None) in members and value.text in UNSET_WORDS else value.text
        try:
            return _settled(read_yaml(value.text), kind, section_of, path)
        except ValueError as error:
            raise NotYaml(".".join(path), value.text, str(error)) from error
    if isinstance(value, list):
        items = _argument(members, (list, tuple, Sequence), 0)
        return [_settled(item, items, section_of, path) for item in value]
    if isinstance(value, Mapping):
        inner = next((one for one in members if isinstance(one, type) and issubclass(one, Config)), None)
        if inner is not None:
            return _section(value, inner, section_of, path)
        items = _argument(members, (dict, Mapping), 1)
        return {_name(name): _settled(item, items, section_of, (*path, _name(name))) for name, item in value.items()}
    return value


def _name(name: Any) -> str:
    return name.text if isinstance(name, Scalar) else str(name)


def _is_open(section: type[Config], name: str) -> bool:
    """Whether a key holds a mapping whose values can be anything."""
    field = section.model_fields.get(name)
    return field is not None and _argument(_members(field.annotation), (dict, Mapping), 1) is Any


def _members(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for one in get_args(kind) for member in _members(one))
    return (kind,)


def _is_text(members: tuple[Any, ...]) -> bool:
    kinds = [one for one in members if one is not type(None)]
    return bool(kinds) and all(
        one in (str, Path) or (get_origin(one) is Literal and all(isinstance(word, str) for word in get_args(one)))
        for one in kinds
    )


def _argument(members: tuple[Any, ...], origins: tuple[Any, ...], place: int) -> Any:
    """The type of the items of the first member that is one of the containers; None if there is none."""
    for member in members:
        arguments = get_args(member)
        if get_origin(member) in origins and len(arguments) > place:
            return arguments[place]
    return None
