"""What a program registered reaches other processes, or the message says what to do."""

import pytest

import some_work
from fedvpa.core.errors import ConfigError
from fedvpa.core.registry import Registry
from fedvpa.experiments.plugins import pack, unpack


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry[type]:
    registry: Registry[type] = Registry("sort", {"list": "builtins:list"})
    monkeypatch.setattr(some_work, "REGISTRY", registry)
    return registry


@pytest.mark.unit
def test_what_is_registered_here_is_registered_there(registry: Registry[type], monkeypatch: pytest.MonkeyPatch) -> None:
    registry.register("mine", some_work.Sorted)
    packed = pack([some_work.PLACE])
    there: Registry[type] = Registry("sort", {})
    monkeypatch.setattr(some_work, "REGISTRY", there)
    unpack(packed)
    assert there.registered == {"mine": some_work.Sorted}


@pytest.mark.unit
def test_a_registry_that_nobody_imported_is_not_imported_for_this() -> None:
    unpack(pack(["no_such_module:REGISTRY"]))


@pytest.mark.unit
def test_what_cannot_be_sent_is_refused_with_what_to_do(registry: Registry[type]) -> None:
    registry.register("mine", lambda: [])
    with pytest.raises(ConfigError) as refused:
        pack([some_work.PLACE])
    for said in ("sort 'mine'", "module that can be imported", "'fedvpa.sorts'", "jobs=1"):
        assert said in str(refused.value)
