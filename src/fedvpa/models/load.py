"""Load tokenizers and language models of transformers, with one message for what cannot be loaded.

Three kinds of model, one way to get each: :func:`load_body` (hidden states, for features), :func:`load_causal_lm` (next
tokens, for policies) and :func:`load_classifier` (one number per text, for reward models). Each comes frozen, in
evaluation mode and on its device, with its tokenizer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
)

from fedvpa.core.errors import ConfigError, FedvpaError, ModelError
from fedvpa.core.progress import say
from fedvpa.models.architecture import kind_of
from fedvpa.models.loading_config import LoadingConfig
from fedvpa.models.locate import ModelSource
from fedvpa.models.products import use_fast_products
from fedvpa.models.quiet import quiet
from fedvpa.models.vocabulary import check_vocabulary

GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")

POOLER = "pooler."
"""Weights that a body may lack: the pooler acts behind the hidden states and is never read."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen model in evaluation mode, and its tokenizer.

    Attributes:
        model: On its device, in its precision.
        tokenizer: Its tokenizer.
        settings: Its configuration (transformers' ``PreTrainedConfig``).
    """

    model: Any
    tokenizer: Any
    settings: Any

    def __repr__(self) -> str:
        return f"LoadedModel({self.settings.model_type!r}, {self.model.dtype}, {self.model.device})"


def load_body(source: ModelSource, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """The body of a decoder-only model or of an encoder, without a head.

    Args:
        source: The located model.
        dtype: Precision of its weights.
        device: Where to put it.

    Raises:
        ModelError: If it cannot be loaded, its architecture is neither decoder-only nor an encoder, or weights are
            missing.
    """
    return _load(AutoModel, source, dtype, device, "the body", optional=POOLER, check=kind_of)


def load_causal_lm(source: ModelSource, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """A language model with the head that gives the logits of the next token.

    Args:
        source: The located model.
        dtype: Precision of its weights.
        device: Where to put it.

    Raises:
        ModelError: If it cannot be loaded as a causal language model, is an encoder, or weights are missing.
    """

    def check(settings: Any) -> None:
        if kind_of(settings) == "encoder":
            raise ModelError(
                f"{settings.model_type!r} is an encoder: it reads a text in both directions, and writes none.",
                fix="Give a decoder-only model (Qwen2, Llama …) as the policy: policy.model=PATH.",
            )

    return _load(AutoModelForCausalLM, source, dtype, device, "a causal language model", check=check)


def load_classifier(source: ModelSource, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """A sequence-classification model with a head of one output: a reward model.

    Args:
        source: The located model.
        dtype: Precision of its weights.
        device: Where to put it.

    Raises:
        ModelError: If it cannot be loaded, its head has more than one output, or weights are missing.
    """

    def check(settings: Any) -> None:
        if settings.num_labels != 1:
            raise ModelError(
                f"The model has a head of {settings.num_labels} outputs; a reward is a single one.",
                fix="Give a sequence-classification model with num_labels = 1.",
            )

    return _load(
        AutoModelForSequenceClassification,
        source,
        dtype,
        device,
        "a reward model",
        fix="Give a trained reward model, not a language model without a reward head.",
        check=check,
    )


def _load(
    family: Any,
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device,
    what: str,
    *,
    optional: str | None = None,
    fix: str = "Copy the complete weights of this architecture there.",
    check: Callable[[Any], object] | None = None,
) -> LoadedModel:
    """Load with one of transformers' Auto classes.

    transformers draws missing weights at random and warns; here they are an error, and weights that nothing uses are
    said, but for a body's head. ``check`` gets the configuration before anything large is read.
    """
    with quiet(), explained(source):
        trust = {"trust_remote_code": source.loading.trust_remote_code}
        settings = AutoConfig.from_pretrained(source.folder, **trust)
        if check is not None:
            check(settings)
        tokenizer = load_tokenizer(source.folder, trust_remote_code=source.loading.trust_remote_code)
        options = loading_arguments(source.loading, dtype, device)
        with _quantised(settings), _chosen_attention(source.loading):
            model, loading = family.from_pretrained(
                source.folder, config=settings, output_loading_info=True, **trust, **options
            )
            if "device_map" not in options:
                model = model.to(device)
        check_vocabulary(tokenizer, model)
    missing = sorted(name for name in loading["missing_keys"] if optional is None or not name.startswith(optional))
    if missing:
        raise ModelError(
            f"The weights lack {len(missing)} tensors of {what}, the first being {missing[0]!r}.",
            fix=fix,
            where=str(source.folder),
        )
    use_fast_products(model)
    unused = sorted(loading["unexpected_keys"])
    if unused and family is not AutoModel:
        say(f"{source.name}: {len(unused)} tensors of the checkpoint are no part of {what}, such as {unused[0]!r}")
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, settings)


def loading_arguments(loading: LoadingConfig, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is given beside the folder: precision, attention and quantisation.

    Raises:
        ConfigError: If weights are to be quantised and bitsandbytes is not installed.
    """
    found: dict[str, Any] = {"dtype": dtype}
    if loading.attn_implementation is not None:
        found["attn_implementation"] = loading.attn_implementation
    if loading.quantization is None:
        return found
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization={loading.quantization} is done by bitsandbytes, which is not installed.",
            fix="pip install bitsandbytes (on a machine that it supports), or leave loading.quantization out.",
            where="configuration key 'loading.quantization'",
        )
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=loading.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    # bitsandbytes quantises on the way to the device, and refuses to be moved afterwards.
    return found | {"quantization_config": how, "device_map": {"": device}}


@contextlib.contextmanager
def _chosen_attention(loading: LoadingConfig) -> Iterator[None]:
    """Say which attention was asked for, where a model cannot be loaded with it."""
    try:
        yield
    except (ImportError, ValueError) as error:
        if loading.attn_implementation is None or "attention" not in f"{error}{loading.attn_implementation}".lower():
            raise
        raise ModelError(
            f"The model cannot be loaded with loading.attn_implementation={loading.attn_implementation}: "
            f"{str(error).strip().splitlines()[0]}",
            fix="Give sdpa or eager, or leave it out.",
        ) from error


@contextlib.contextmanager
def _quantised(settings: Any) -> Iterator[None]:
    """Say of a quantised checkpoint that it is one, where it cannot be loaded or moved."""
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        how = getattr(settings, "quantization_config", None)
        if how is None:
            raise
        method = how.get("quant_method") if isinstance(how, dict) else getattr(how, "quant_method", None)
        raise ModelError(
            f"The checkpoint is quantised ({method}), and cannot be used here: {str(error).strip().splitlines()[0]}",
            fix="Give the unquantised checkpoint of the model, or install what this one needs.",
        ) from error


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder; its own code runs only if it is trusted.

    A folder that declares a generic tokenizer gets exactly its ``tokenizer.json``. AutoTokenizer of transformers 5
    would replace it, for Qwen2 and other families, by the family's own class, which splits words by rules of its own.
    """
    declaration = folder / "tokenizer_config.json"
    declared = json.loads(declaration.read_text(encoding="utf-8")) if declaration.is_file() else {}
    if declared.get("tokenizer_class") in GENERIC_TOKENIZERS and (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def open_settings(source: ModelSource) -> Any:
    """The configuration of a located model, without its weights.

    Raises:
        ModelError: If it cannot be read.
    """
    with quiet(), explained(source):
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=source.loading.trust_remote_code)


def open_tokenizer(source: ModelSource) -> Any:
    """:func:`load_tokenizer` of a located model.

    Raises:
        ModelError: If it cannot be loaded.
    """
    with quiet(), explained(source):
        return load_tokenizer(source.folder, trust_remote_code=source.loading.trust_remote_code)


@contextlib.contextmanager
def explained(source: ModelSource) -> Iterator[None]:
    """Turn what transformers raises about an unusable folder into one message."""
    try:
        yield
    except ModelError as error:
        raise ModelError(error.problem, fix=error.fix, where=error.where or str(source.folder)) from None
    except FedvpaError:
        raise
    except Exception as error:  # tokenizers raises Exception itself, and a wrong config.json anything
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error) and not source.loading.trust_remote_code:
            raise ModelError(
                "This model is made of Python code that lies beside its weights, and that code is not trusted.",
                fix="Read it; if it may run on this machine, set loading.trust_remote_code=true (under features or "
                "policy). Or use a model of an architecture that transformers has itself.",
                where=str(source.folder),
            ) from error
        raise ModelError(
            f"The model cannot be loaded: {first}",
            fix="Check that AutoModel and AutoTokenizer of the installed transformers load this folder.",
            where=str(source.folder),
        ) from error
