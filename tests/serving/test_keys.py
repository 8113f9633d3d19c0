import json
import stat

import pytest

from fedvpa.core.errors import ConfigError, DataError, RunError
from fedvpa.serving.keys import PREFIX, Caller, Keys

pytestmark = pytest.mark.unit


def test_a_key_is_known_until_it_is_removed_and_kept_nowhere(tmp_path):
    keys = Keys(tmp_path / "profiles" / "keys.json")
    whole, bound = keys.add("laptop"), keys.add("phone", "ana")
    assert len({whole, bound}) == 2
    assert all(key.startswith(PREFIX) and len(key) >= len(PREFIX) + 43 for key in (whole, bound))
    assert (keys.caller(whole), keys.caller(bound)) == (Caller(), Caller("ana"))
    saved = keys.file.read_text()
    assert not [key for key in (whole, bound) if key.removeprefix(PREFIX) in saved]
    keys.remove("laptop")
    assert (keys.caller(whole), keys.caller(bound)) == (None, Caller("ana"))


def test_another_process_that_changes_the_file_is_noticed(tmp_path):
    here, there = Keys(tmp_path / "keys.json"), Keys(tmp_path / "keys.json")
    assert not here.all()
    made = there.add("a")
    assert here.caller(made) == Caller()
    there.remove("a")
    assert here.caller(made) is None


@pytest.mark.parametrize("token", ["", PREFIX, "x", "\ud800", "a" * 10_000])
def test_what_is_no_key_is_nobodys(tmp_path, token):
    keys = Keys(tmp_path / "keys.json")
    keys.add("a")
    assert keys.caller(token) is None


def test_the_file_is_its_owners_alone(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    keys.add("a")
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600


def test_names_are_given_once_and_an_unknown_one_is_said(tmp_path):
    keys = Keys(tmp_path / "keys.json")
    with pytest.raises(ConfigError, match="There are none"):
        keys.remove("laptop")
    keys.add("laptop")
    with pytest.raises(ConfigError, match="There is a key 'laptop' already"):
        keys.add("laptop")
    with pytest.raises(ConfigError, match="Did you mean 'laptop'"):
        keys.remove("labtop")
    with pytest.raises(DataError):
        keys.add("a/b")


def test_a_damaged_file_is_said(tmp_path):
    file = tmp_path / "keys.json"
    for content in ('{"schema_version": 9, "keys": []}', '{"schema_version": 1, "keys": [{"name": "a"}]}', "{"):
        file.write_text(content)
        with pytest.raises(RunError, match=r"keys\.json"):
            Keys(file).all()
    file.write_text(json.dumps({"schema_version": 1, "keys": []}))
    assert not Keys(file).all()
