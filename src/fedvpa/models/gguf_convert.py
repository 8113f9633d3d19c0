"""A GGUF file as an ordinary model folder: converted once, kept in the cache, found again by content.

transformers reads GGUF into an ordinary model, and refuses to save that, since it still counts as quantised. What is
saved here is the same weights under a configuration that knows nothing of quantisation, so that everything else treats
the folder as any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock, Timeout
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedvpa.core.cache import cache_base
from fedvpa.core.content import content_hash
from fedvpa.core.errors import ModelError
from fedvpa.core.files import storing, write_json
from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.models.folder import check_folder
from fedvpa.models.gguf_file import GGUFHeader, check_gguf, first_line, read_header
from fedvpa.models.quiet import quiet

RECORD = "gguf.json"
"""Beside the weights: which file they came from."""


def converted(file: Path) -> Path:
    """The model folder of a GGUF file, made at the first call.

    The folder belongs to the content of the file: another name or place finds it again, and so does the same path
    after the file itself is gone, which is said. Two processes that want the same one wait for each other.

    Args:
        file: The GGUF file.

    Returns:
        A folder with ``config.json``, ``model.safetensors`` and the tokenizer. Weights of a quantised file are kept in
        bfloat16, whose rounding is far finer than theirs; others in float32.

    Raises:
        ModelError: If the file is missing, empty, damaged, of an architecture that transformers does not read from
            GGUF, or the package gguf is missing.
        StorageError: If the cache cannot be written.
    """
    if not file.exists() and (kept := _kept_of(file)) is not None:
        say(f"{file} is not there any more; the folder that it was converted to is used: {kept}")
        return kept
    check_gguf(file)
    content = content_hash(file)
    folder = _home() / hashlib.sha256(f"{content}:{VERSIONS['converted model']}".encode()).hexdigest()[:32]
    if (folder / RECORD).is_file():
        return folder
    with storing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, file):
            if not (folder / RECORD).is_file():
                _convert(file, content, folder)
    return folder


def _home() -> Path:
    return cache_base() / "models"


def _kept_of(file: Path) -> Path | None:
    """The folder that a file of this path was converted to last."""
    records = sorted(_home().glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
    wanted = str(file.absolute())
    for record in records:
        if json.loads(record.read_text(encoding="utf-8"))["path"] == wanted:
            return record.parent
    return None


def _locked(folder: Path, file: Path) -> FileLock:
    """The lock of whoever converts into a folder; the system frees it when its holder dies."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process, which converts {file.name}")
        return lock
    lock.release()
    return lock


def _convert(file: Path, content: str, folder: Path) -> None:
    """Make the folder beside its place, and move it there when it is whole."""
    header = read_header(file)
    dtype = torch.float32 if header.exact else torch.bfloat16
    say(
        f"{file.name} ({header.architecture}) is converted once into {folder}, as {str(dtype).removeprefix('torch.')}; "
        "later runs read that folder"
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        made = Path(temporary) / "model"
        _write_model(file, header, dtype, made)
        _forget_place(made)
        check_folder(made)
        record = {"schema_version": VERSIONS["converted model"], "file": file.name, "path": str(file.absolute())}
        write_json(made / RECORD, {**record, "sha256": content})
        made.replace(folder)


def _write_model(file: Path, header: GGUFHeader, dtype: torch.dtype, made: Path) -> None:
    """Configuration, weights and tokenizer, as transformers reads them from the file."""
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tokenizer = AutoTokenizer.from_pretrained(**where)
            with contextlib.redirect_stderr(io.StringIO()):  # it holds a bar that nothing else turns off
                model = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
        except Exception as error:  # of many kinds, by what the file lacks
            raise ModelError(
                f"transformers {transformers.__version__} cannot read this GGUF file of the architecture "
                f"{header.architecture!r}: {first_line(error)}",
                fix="Give the model as a folder in the layout of transformers, or one of an architecture that it reads "
                "from GGUF, such as Llama or Qwen2.",
                where=str(file),
            ) from error
        if odd := next(_not_finite(model), None):
            raise ModelError(
                f"The GGUF file is damaged: its tensor {odd!r} holds numbers that are not finite.",
                fix="Copy or download it again, and compare its size and hash with where it came from.",
                where=str(file),
            )
        plain(model).save_pretrained(made)
        tokenizer.save_pretrained(made)


def _not_finite(model: Any) -> Iterator[str]:
    return (name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all())


def plain(model: Any) -> Any:
    """A model with the same weights (the same tensors) whose configuration is of no quantised one."""
    settings = type(model.config).from_dict(
        {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    )
    settings.dtype = model.dtype
    with torch.device("meta"):
        shell = type(model)(settings)
    shell.load_state_dict(model.state_dict(), assign=True)
    shell.tie_weights()
    return shell


def _forget_place(made: Path) -> None:
    """Leave out of the folder what depends on where and by which release it was made: its content is its identity."""
    for name in ("config.json", "generation_config.json"):
        path = made / name
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            for key in ("transformers_version", "_name_or_path"):
                values.pop(key, None)
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + os.linesep, encoding="utf-8")
