from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from fedvpa.core.config import Config
from fedvpa.core.written import Given, NotYaml, read_yaml, settled

pytestmark = pytest.mark.unit


class Settings(Config):
    model: str = ""
    price: float = 0.0


class Inner(Config):
    names: dict[str, str] = Field(default_factory=dict)
    shares: Mapping[str, float] = Field(default_factory=dict)


class Section(Config):
    name: str = "x"
    path: Path | None = None
    key: str | None = "y"
    word: Literal["on", "off"] = "on"
    count: int = 0
    rate: float | None = None
    flag: bool = False
    words: tuple[str, ...] = ()
    mixed: str | float = ""
    inner: Inner = Inner()
    kind: str = "known"
    settings: dict[str, Any] = Field(default_factory=dict)


def section_of(path, beside):
    return Settings if path == ("settings",) and beside.get("kind", "known") == "known" else None


def override(key, text):
    *above, last = key.split(".")
    values = {last: Given(text)}
    for section in reversed(above):
        values = {section: values}
    return Section.parse(settled(values, Section, section_of))


WORDS = [
    "on",
    "off",
    "yes",
    "null",
    "~",
    "4.1",
    "007",
    "1e3",
    "1_000",
    "2024-05-01",
    "",
    " x ",
    "[a",
    "a: b",
    '"q"',
    "#c",
]


@pytest.mark.parametrize("text", WORDS)
def test_a_key_whose_type_is_text_takes_the_text_as_it_is(text):
    assert override("name", text).name == text
    assert override("inner.names.on", text).inner.names == {"on": text}
    assert override("settings.model", text).settings == {"model": text}


def test_a_text_key_that_may_be_unset_is_unset_by_null_and_by_nothing():
    for text in ("", "null", "~"):
        assert (override("key", text).key, override("path", text).path) == (None, None)
    assert (override("key", "off").key, override("path", "2024").path) == ("off", Path("2024"))


def test_keys_of_other_types_are_yaml():
    assert override("word", "off").word == "off"
    assert (override("count", "7").count, override("rate", "null").rate) == (7, None)
    assert (override("rate", "1e3").rate, override("flag", "on").flag) == (1000.0, True)
    assert override("words", "[on, 4.1, 'a b', 007]").words == ("on", "4.1", "a b", "007")
    assert override("mixed", "4.1").mixed == 4.1
    assert override("inner", "{names: {1: on}, shares: {off: 1}}").inner == Inner(names={"1": "on"}, shares={"off": 1})
    assert override("settings.price", "0.5").settings == {"price": 0.5}


def test_settings_of_an_unknown_section_are_yaml_wherever_it_is_named():
    values = {"settings": {"model": Given("4.1")}, "kind": Given("other")}
    assert settled(values, Section, section_of)["settings"] == {"model": 4.1}


def test_a_file_keeps_texts_as_they_are_written_and_null_unsets():
    text = """
    name: 4.10
    path: 2024
    key: null
    word: off
    count: 7
    words: [on, 2024-05-01, "null", 010]
    inner: {names: {yes: 1e3, no: 1_0}, shares: {on: 1}}
    settings: {model: 007, price: 0.5}
    """
    found = Section.parse(settled(read_yaml(text), Section, section_of))
    assert (found.name, found.path, found.key, found.word) == ("4.10", Path("2024"), None, "off")
    assert (found.count, found.words) == (7, ("on", "2024-05-01", "null", "010"))
    assert found.inner == Inner(names={"yes": "1e3", "no": "1_0"}, shares={"on": 1.0})
    assert found.settings == {"model": "007", "price": 0.5}


@pytest.mark.parametrize("text", ["[", "a: b: c", "2024-13-45", "[" * 10_000, "9" * 5_003, "\x00"])
def test_what_is_not_yaml_is_named_by_its_key(text):
    with pytest.raises(NotYaml) as error:
        override("count", text)
    assert (error.value.key, error.value.text) == ("count", text)
    with pytest.raises(ValueError):
        read_yaml(text)
