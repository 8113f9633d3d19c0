from pathlib import Path

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.core.files import user_path
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
