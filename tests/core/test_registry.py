from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

import pytest

from fedvpa.core import registry
from fedvpa.core.errors import ConfigError
from fedvpa.core.registry import Registry
from plugin import install

pytestmark = pytest.mark.unit

Toys = Registry[Callable[..., object]]


@pytest.fixture
def toys() -> Toys:
    return Registry("toy", {"tree": "fedvpa.core.tree:stack", "lost": "fedvpa.core.no_such_module:thing"})


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._installed.cache_clear()

    def add(name: str, points: Mapping[str, str], code: str = "") -> None:
        install(tmp_path, name, {"fedvpa.toys": points}, code)
        registry._installed.cache_clear()

    yield add
    registry._installed.cache_clear()


def test_a_builtin_entry_is_imported_when_it_is_got_and_not_before(toys: Toys):
    assert "lost" in toys
    assert toys.check("lost") == "lost"
    assert toys.names() == ["lost", "tree"]
    from fedvpa.core.tree import stack

    assert toys.get("tree") is stack
    with pytest.raises(ModuleNotFoundError):
        toys.get("lost")


def test_a_registered_entry_can_be_replaced_but_not_a_builtin_one(toys: Toys):
    toys.register("ball", len)
    toys.register("ball", max)
    assert toys.get("ball") is max
    assert toys.registered == {"ball": max}
    assert repr(toys) == "Registry('toy', ['ball', 'lost', 'tree'])"
    with pytest.raises(ConfigError, match="There is a toy 'tree' already"):
        toys.register("tree", len)
    assert "ball" not in Registry("toy", {})


def test_an_unknown_name_says_the_nearest_all_known_ones_and_how_to_add_one(toys: Toys):
    with pytest.raises(ConfigError) as error:
        toys.get("treee")
    message = str(error.value)
    assert message.startswith("There is no toy 'treee'. Did you mean 'tree'? Known: lost, tree. ")
    assert "fedvpa.register('toy', 'treee', …)" in message
    assert "'fedvpa.toys'" in message
    with pytest.raises(ConfigError, match=r"^here: There is no toy 'xyz'\. Known: lost, tree\. Others"):
        toys.check("xyz", "here")


def test_an_entry_of_another_shape_is_refused(toys: Toys):
    with pytest.raises(ConfigError, match=r"The toy 'seven' cannot be used: it is 7\. A toy is something that can be"):
        toys.register("seven", 7)
    assert "seven" not in toys
    numbers: Registry[int] = Registry("number", {}, fits=lambda entry: isinstance(entry, int), shape="an integer")
    numbers.register("seven", 7)
    assert numbers.get("seven") == 7


def test_an_installed_entry_is_known_without_importing_its_package(toys: Toys, installed):
    installed("toy_box", {"kite": "toy_box:fly"}, "def fly():\n    return 'high'\n")
    assert toys.check("kite") == "kite"
    assert "toy_box" not in sys.modules
    assert toys.names() == ["kite", "lost", "tree"]
    assert toys.get("kite")() == "high"
    with pytest.raises(ConfigError, match="There is a toy 'kite' already"):
        toys.register("kite", len)


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        ("broken_box:fly", "import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("broken_box:fly", "", "AttributeError: "),
        ("broken_box:fly", "raise RuntimeError('no')", "RuntimeError: no"),
        ("broken_box:fly", "fly = 7", "cannot be used: it is 7"),
    ],
)
def test_a_package_that_fails_is_named(toys: Toys, installed, monkeypatch, value, code, reason):
    installed("broken_box", {"kite": value}, code)
    with pytest.raises(ConfigError) as error:
        toys.get("kite")
    sys.modules.pop("broken_box", None)
    assert reason in str(error.value)
    assert ("broken_box" in str(error.value)) == (code != "fly = 7")


def test_a_name_that_two_packages_claim_is_refused_where_it_is_used(toys: Toys, installed):
    installed("box_a", {"kite": "box_a:fly"}, "fly = len")
    installed("box_b", {"kite": "box_b:fly"}, "fly = len")
    assert "kite" in toys
    with pytest.raises(ConfigError, match="Several packages add a toy 'kite': box_a, box_b"):
        toys.get("kite")


def test_a_builtin_entry_cannot_be_taken_over_by_a_package(toys: Toys, installed):
    installed("thief_box", {"tree": "thief_box:fly"}, "fly = len")
    assert toys.get("tree") is not len
