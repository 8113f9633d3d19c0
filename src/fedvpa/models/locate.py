"""From a model's name to a complete folder and to what identifies its content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)

from fedvpa.core.content import hash_files
from fedvpa.core.errors import ModelError
from fedvpa.models.folder import BUNDLED, TOKENIZERS, WEIGHTS, check_folder, is_gguf, is_path, local_place, weight_files
from fedvpa.models.loading_config import DEFAULT, LoadingConfig

TOKENIZER_FILES = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


Origin = Literal["hub", "folder", "gguf", "bundled"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A complete model folder.

    Attributes:
        name: As the user gave it.
        folder: Where ``config.json``, weights and tokenizer lie.
        revision: The commit of a hub model; empty for a folder.
        loading: How it is loaded.
        file: The GGUF file that the folder was made from; None for others.
    """

    name: str
    folder: Path
    revision: str = ""
    loading: LoadingConfig = DEFAULT
    file: Path | None = None

    @property
    def origin(self) -> Origin:
        """Where it is from."""
        if self.file is not None:
            return "gguf"
        return "hub" if self.revision else "bundled" if self.name == BUNDLED else "folder"

    @property
    def label(self) -> str:
        """What others may know it by: a hub id, or the last part of a local path. No place on this machine."""
        if self.origin in ("hub", "bundled"):
            return self.name
        return (self.file or self.folder.resolve()).name

    def identity(self) -> str:
        """What names the weights in the caches of one machine: the hub revision, or :meth:`content`.

        The folder's place is no part of it: a moved or copied model finds its cache again. Weights that are rounded
        further when they are loaded are others.
        """
        weights = f"{self.name}@{self.revision}" if self.revision else self.content()
        return f"{weights}+{self.loading.quantization}" if self.loading.quantization else weights

    def content(self) -> str:
        """A hash of configuration, weights and trusted code: equal for a hub model and for its copy in a folder.

        What one machine trains and another one uses is known by it, since each may have the model from elsewhere.
        """
        code = sorted(self.folder.glob("*.py")) if self.loading.trust_remote_code else []
        return "sha256:" + hash_files([self.folder / "config.json", *code, *weight_files(self.folder)])

    def known_as(self, recorded: str) -> bool:
        """Whether this is the model that was recorded: by its content or, by earlier releases, by its identity."""
        return recorded in (self.content(), self.identity())

    def tokenizer_hash(self) -> str:
        """A hash of the tokenizer's files and chat template."""
        return hash_files(self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file())


def locate(model: str, loading: LoadingConfig = DEFAULT) -> ModelSource:
    """Find a model: ``bundled``, a folder, a GGUF file (converted once), or a hub id (downloaded once).

    Args:
        model: Its name.
        loading: How it is fetched and loaded.

    Raises:
        ModelError: If there is no such folder, file or hub model, the folder lacks configuration, weights or tokenizer,
            or the GGUF file cannot be converted.
        ConfigError: If the token of the hub is not where the configuration says.
    """
    place = local_place(model)
    if place is None:
        source = _download(model, loading)
    elif is_gguf(place) and not place.is_dir():
        from fedvpa.models.gguf_convert import converted  # deferred: it imports the model classes of transformers

        source = ModelSource(model, converted(place), loading=loading, file=place)
    else:
        source = ModelSource(model, place, loading=loading)
    check_folder(source.folder)
    return source


def label_of(model: str) -> str:
    """What others may know a model by: a hub id or ``bundled`` as it is, of a local path the last part."""
    return Path(model).expanduser().absolute().name if model != BUNDLED and is_path(model) else model


def locate_for(key: str, model: str, loading: LoadingConfig = DEFAULT) -> ModelSource:
    """As :func:`locate`, for a model that something was trained with, maybe on another machine.

    Args:
        key: The key of the configuration that says where it is on this one.
        model: Its name.
        loading: How it is fetched and loaded.

    Raises:
        ModelError: As :func:`locate`; says how to name another place.
    """
    try:
        return locate(model, loading)
    except ModelError as error:
        fix = f"{error.fix} Say where the model is on this machine: {key}=PATH."
        raise ModelError(error.problem, fix=fix.strip(), where=error.where or model) from error


def _download(model: str, loading: LoadingConfig) -> ModelSource:
    """The snapshot of a hub model, from the local hub cache if the hub cannot be reached."""
    small = ["*.json", "*.txt", "*.model", "*.jinja", *(["*.py"] if loading.trust_remote_code else [])]
    fetch = partial(snapshot_download, model, revision=loading.revision, token=loading.token(), ignore_patterns=["*/*"])
    try:
        folder = Path(fetch(allow_patterns=[*small, "*.safetensors"]))
        if not any((folder / name).is_file() for name in WEIGHTS[:2]):
            folder = Path(fetch(allow_patterns=[*small, "*.bin"]))
    except RevisionNotFoundError as error:
        raise ModelError(
            f"The hub model {model!r} has no revision {loading.revision!r}.",
            fix="Give a branch, a tag or a commit of it: loading.revision=…",
        ) from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        at = f" at the revision {loading.revision!r}" if loading.revision else ""
        raise ModelError(
            f"{model!r} is neither a folder nor a hub model that could be fetched{at} ({type(error).__name__}).",
            fix="Check the name, the connection and, for a gated or private model, the login (hf auth login, or "
            "loading.token_env); or give a local folder or a .gguf file.",
        ) from error
    return ModelSource(model, folder, revision=folder.name, loading=loading)
