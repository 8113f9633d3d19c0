"""Free memory is what the system, and the container, say."""

from __future__ import annotations

import pytest
import torch

from fedvpa.models import memory
from fedvpa.models.memory import free_memory

CPU = torch.device("cpu")


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


@pytest.mark.unit
def test_the_smaller_of_machine_and_container_counts(places):
    (places / "meminfo").write_text("MemTotal: 90 kB\nMemAvailable:     70 kB\n")
    assert free_memory(CPU) == 70 * 1024
    (places / "memory.max").write_text("max\n")
    (places / "memory.current").write_text("500\n")
    assert free_memory(CPU) == 70 * 1024
    (places / "memory.max").write_text("2500\n")
    assert free_memory(CPU) == 2000


@pytest.mark.unit
def test_without_either_half_of_all_memory(places, monkeypatch):
    sizes = {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
    assert free_memory(CPU) == 5 * 4096
