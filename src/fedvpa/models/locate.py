"""From a model's name to a complete folder and to what identifies its content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from fedvpa.core.content import hash_files
from fedvpa.core.errors import ModelError
from fedvpa.models.folder import TOKENIZERS, WEIGHTS, check_folder, local_folder, weight_files

TOKENIZER_FILES = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A complete model folder.

    Attributes:
        name: As the user gave it.
        folder: Where ``config.json``, weights and tokenizer lie.
        revision: The commit of a hub model; empty for a folder.
    """

    name: str
    folder: Path
    revision: str = ""

    def identity(self) -> str:
        """What names the weights in the caches of one machine: the hub revision, or :meth:`content`.

        The folder's place is no part of it: a moved or copied model finds its cache again.
        """
        return f"{self.name}@{self.revision}" if self.revision else self.content()

    def content(self) -> str:
        """A hash of configuration and weights: equal for a hub model and for its copy in a folder.

        What one machine trains and another one uses is known by it, since each may have the model from elsewhere.
        """
        return "sha256:" + hash_files([self.folder / "config.json", *weight_files(self.folder)])

    def known_as(self, recorded: str) -> bool:
        """Whether this is the model that was recorded: by its content or, by earlier releases, by its identity."""
        return recorded in (self.content(), self.identity())

    def tokenizer_hash(self) -> str:
        """A hash of the tokenizer's files and chat template."""
        return hash_files(self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file())


def locate(model: str) -> ModelSource:
    """Find a model: ``bundled``, an existing folder, or a hub id (downloaded once, then found offline).

    Raises:
        ModelError: If there is no such folder or hub model, or the folder lacks configuration, weights or tokenizer.
    """
    folder = local_folder(model)
    source = _download(model) if folder is None else ModelSource(model, folder)
    check_folder(source.folder)
    return source


def locate_for(key: str, model: str) -> ModelSource:
    """As :func:`locate`, for a model that something was trained with, maybe on another machine.

    Args:
        key: The key of the configuration that says where it is on this one.
        model: Its name.

    Raises:
        ModelError: As :func:`locate`; says how to name another place.
    """
    try:
        return locate(model)
    except ModelError as error:
        fix = f"{error.fix} Say where the model is on this machine: {key}=PATH."
        raise ModelError(error.problem, fix=fix.strip(), where=error.where or model) from error


def _download(model: str) -> ModelSource:
    """The snapshot of a hub model, from the local hub cache if the hub cannot be reached."""
    small = ["*.json", "*.txt", "*.model", "*.jinja"]
    try:
        folder = Path(snapshot_download(model, allow_patterns=[*small, "*.safetensors"], ignore_patterns=["*/*"]))
        if not any((folder / name).is_file() for name in WEIGHTS[:2]):
            folder = Path(snapshot_download(model, allow_patterns=[*small, "*.bin"], ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{model!r} is neither a folder nor a hub model that could be fetched ({type(error).__name__}).",
            fix="Check the name, the connection and, for a gated model, the login; or give a local folder.",
        ) from error
    return ModelSource(model, folder, revision=folder.name)
