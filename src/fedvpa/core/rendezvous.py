"""How processes that a launcher started find one another, and notice that one is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from fedvpa.core.errors import ConfigError, FedvpaError

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others. Chosen by us: longer than what one of them does alone, such as the rounds of
stage 1. A process that has ended is noticed at once."""

HOST_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
"""What ``accelerate launch`` sets so that transformers gives all processes but the first a model without weights."""

_group: Any = None
_store: Any = None


class ProcessLost(FedvpaError):
    """Another process of the same command has ended."""


def launched() -> bool:
    """Whether a launcher started several processes of this program."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def connected() -> tuple[int, int]:
    """Connect the processes that a launcher started, once; the number of this one, and how many there are.

    Raises:
        ConfigError: If this process has no GPU of its own on a machine that has some.
        ProcessLost: If the others cannot be reached.
    """
    global _group, _store
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        from torch.distributed.rendezvous import rendezvous

        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(_own_gpu(torch))
        # Models are loaded whole by each process here, and not by the first one for all.
        os.environ[HOST_LOADING] = "false"
        try:
            _store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
            connect = partial(distributed.init_process_group, rank=rank, world_size=count, timeout=PATIENCE)
            connect("cpu:gloo,cuda:nccl" if gpu else "gloo", store=distributed.PrefixStore("fedvpa", _store))
        except (RuntimeError, ValueError) as error:
            raise ProcessLost(
                f"The processes that the launcher started cannot reach one another: {error}. Start them with torchrun "
                "or accelerate launch, which say where the first one is."
            ) from error
    if _group is None and distributed.get_backend() != "gloo":
        _group = distributed.new_group(backend="gloo", timeout=PATIENCE)  # for what lies in main memory
    return distributed.get_rank(), distributed.get_world_size()


def first_to_speak() -> bool:
    """Whether this process is the one that reports why the command ended: of several, whichever asks first."""
    if _store is not None:
        try:
            return int(_store.add("fedvpa/ended", 1)) == 1
        except RuntimeError:
            pass  # whoever keeps the count has ended
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def collective() -> Iterator[tuple[Any, Any]]:
    """``torch.distributed``, and the group for what lies in main memory.

    Raises:
        ProcessLost: If another process has ended.
    """
    from torch import distributed

    try:
        yield distributed, _group
    except RuntimeError as error:
        raise ProcessLost(
            "Another process of this command has ended, so the work cannot go on. It says why itself, unless it was "
            "killed, as for a lack of memory. What was kept before is there."
        ) from error


def _own_gpu(torch: Any) -> int:
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        raise ConfigError(
            f"This machine has {there} GPUs, and more processes were started on it.",
            fix=f"Start {there}: --nproc-per-node of torchrun, --num_processes of accelerate launch (over all nodes).",
        )
    return own
