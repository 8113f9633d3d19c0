"""Load tokenizers and language models of transformers, with one message for what cannot be loaded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from fedvpa.core.errors import ModelError
from fedvpa.models.locate import ModelSource

GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder.

    A folder that declares a generic tokenizer gets exactly its ``tokenizer.json``. AutoTokenizer of transformers 5
    would replace it, for Qwen2 and other families, by the family's own class, which splits words by rules of its own.
    """
    declaration = folder / "tokenizer_config.json"
    declared = json.loads(declaration.read_text(encoding="utf-8")) if declaration.is_file() else {}
    if declared.get("tokenizer_class") in GENERIC_TOKENIZERS and (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@contextlib.contextmanager
def explained(source: ModelSource) -> Iterator[None]:
    """Turn what transformers raises about an unusable folder into one message."""
    try:
        yield
    except ModelError as error:
        raise ModelError(error.problem, fix=error.fix, where=error.where or str(source.folder)) from None
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The model cannot be loaded: {first}",
            fix="Check that AutoModel and AutoTokenizer of the installed transformers load this folder.",
            where=str(source.folder),
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's own bars and loading notes off the terminal; missing weights are checked by us."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
