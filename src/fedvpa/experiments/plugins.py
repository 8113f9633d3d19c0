"""What a program registered, made known to the processes that it starts."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.registry import Registry


def pack(registries: Sequence[str]) -> bytes:
    """What this program registered, for :func:`unpack` in another process.

    Args:
        registries: Their places, as ``module:attribute``; one whose module is not imported holds nothing yet.

    Raises:
        ConfigError: For an entry that another process cannot import.
    """
    packed = [
        (place, name, _portable(registry, name))
        for place in registries
        if place.partition(":")[0] in sys.modules
        for registry in (_registry(place),)
        for name in registry.registered
    ]
    return pickle.dumps(packed)


def unpack(packed: bytes) -> None:
    """Register what another process packed."""
    for place, name, entry in pickle.loads(packed):
        _registry(place).register(name, pickle.loads(entry))


def main_can_be_imported() -> bool:
    """Whether another process can import what this program defines itself: not from a notebook or standard input."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return main.__spec__ is not None or (file is not None and Path(file).is_file())


def _registry(place: str) -> Registry[Any]:
    module, _, attribute = place.partition(":")
    registry: Registry[Any] = getattr(import_module(module), attribute)
    return registry


def _portable(registry: Registry[Any], name: str) -> bytes:
    try:
        entry = pickle.dumps(registry.registered[name])
        _Check(io.BytesIO(entry)).load()
    except Exception as error:  # pickle raises whatever an entry's own methods raise
        raise ConfigError(
            f"The {registry.kind} {name!r} was registered by this program and cannot be sent to other processes: "
            f"{error}.",
            fix="Register it in a module that can be imported, or give an installed package an entry point of the "
            f"group {registry.group!r}, or use one process (jobs=1).",
        ) from error
    return entry


class _Check(pickle.Unpickler):
    """Reads an entry as another process would."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__" and not main_can_be_imported():
            raise pickle.UnpicklingError(f"{name} is defined in a notebook or on standard input")
        return super().find_class(module, name)
