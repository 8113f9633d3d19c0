"""Where a language model runs, and in which precision."""

from __future__ import annotations

import os

import torch

from fedvpa.core.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device that ``name`` means; ``auto`` is a GPU if there is one, under ``accelerate launch`` each process' own.

    Raises:
        ConfigError: If torch knows no such device or it is not there.
    """
    if name == "auto":
        own = os.environ.get("LOCAL_RANK")
        gpu = "cuda" if own is None else f"cuda:{own}"
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device {name!r} cannot be used ({str(error).splitlines()[0]}).",
            fix="Use 'auto' or 'cpu'.",
            where="configuration key 'device'",
        ) from error
    return device


GPUS = "CUDA_VISIBLE_DEVICES"
"""The variable that says which GPUs a process sees. One that is set before CUDA starts holds for the whole process."""


def places_of(name: str) -> tuple[str, ...]:
    """Where processes that each hold a language model of their own can share out a device.

    Args:
        name: As of :func:`resolve_device`.

    Returns:
        For each place what ``GPUS`` says there: each GPU that this process sees, under ``auto`` and ``cuda``. A device
        that is named, such as ``cuda:1``, is one place and leaves the variable alone (an empty text). None on a CPU,
        whose cores share it out without that.
    """
    device = resolve_device(name)
    if device.type == "cpu":
        return ()
    if device.type != "cuda" or device.index is not None:
        return ("",)
    seen = [own for own in os.environ.get(GPUS, "").split(",") if own]
    return tuple(seen or map(str, range(torch.cuda.device_count())))


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision that ``name`` means; ``auto`` is bfloat16 on a GPU and float32 elsewhere.

    ``calibrated`` is the same for few texts, for which it is not worth to find out.
    """
    if name in ("auto", "calibrated"):
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
