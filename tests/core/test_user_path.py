from pathlib import Path

import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.files import check_folder_name, user_path
from fedvpa.runs.folder import RunFolder


@pytest.mark.unit
@pytest.mark.parametrize(("path", "message"), [("caf\udce9", "half a surrogate pair"), ("a\0b", "a NUL")])
def test_a_path_that_no_file_can_say_is_an_error(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^The path .* holds {message}"):
        user_path(path)
    with pytest.raises(ConfigError, match=r"^The path"):
        RunFolder.at(path)


@pytest.mark.unit
def test_a_tilde_is_the_home_folder() -> None:
    assert user_path("~/x") == Path.home() / "x"


@pytest.mark.unit
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\\b", "a\0", "a\nb", "x" * 201])
def test_a_name_of_the_data_that_no_folder_can_have_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match="a group, and no folder can have this name"):
        check_folder_name(name, "a group")
    check_folder_name("very helpful: 用户.é", "a group")
