"""A key that nothing reads is an error: options are never accepted and ignored."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError


def check_unread(
    config: Config, read: Collection[str], reader: str, *, advice: Callable[[str], str] | None = None
) -> None:
    """Refuse a value other than the default for a key that ``reader`` does not read.

    Defaults pass, so that a resolved configuration, which names every key, can be read again.

    Args:
        config: The section.
        read: The keys that are read.
        reader: Who reads them, for the message.
        advice: What else could be meant by a key, as a sentence with its space; empty if nothing.

    Raises:
        ConfigError: For the first such key.
    """
    for key, field in type(config).model_fields.items():
        if key not in read and getattr(config, key) != field.get_default(call_default_factory=True):
            raise ConfigError(
                f"{key!r} was set, and {reader} does not read it.",
                fix=f"Remove it.{advice(key) if advice else ''} Keys read: {', '.join(sorted(read))}.",
            )
