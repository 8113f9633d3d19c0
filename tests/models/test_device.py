"""Which device and precision a name means."""

from __future__ import annotations

import pytest
import torch

from fedvpa.models.device import places_of, resolve_device, resolve_dtype


@pytest.mark.unit
def test_each_process_of_a_launch_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert resolve_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.unit
def test_processes_share_out_the_gpus_that_are_seen_and_no_named_one(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert places_of("cpu") == ()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places_of("auto") == ("0", "1", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7a")
    assert places_of("auto") == ("5", "GPU-7a")
    assert places_of("meta") == ("",)  # a device that is neither the CPU nor all GPUs
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert places_of("auto") == ("",)


@pytest.mark.unit
def test_precision_follows_the_device():
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16
