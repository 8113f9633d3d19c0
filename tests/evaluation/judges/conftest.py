from __future__ import annotations

from collections.abc import Iterator

import pytest

from evaluation.judges.endpoint import KEY, Endpoint
from tiny_models import model_folder
from trained_judge import trained_judge

__all__ = ["model_folder", "trained_judge"]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Endpoint()
    yield server
    server.close()
