"""What a preference means is said where the name alone misleads."""

import pytest

from fedvpa.runs.folder import RunFolder
from fedvpa.runs.preferences import Known, z_of

pytestmark = pytest.mark.unit


def test_groups_with_the_same_z_are_said_to_be_the_same(tmp_path, capsys):
    known = Known({"a": [0.0, 1.0], "b": [0.0, 1.0], "c": [1.0, 0.0]})

    def z(preference):
        return z_of(RunFolder(tmp_path), preference, known, lambda: pytest.fail("the users were opened"))

    assert z("a") == [0.0, 1.0]
    assert "preference 'a' is the same z as 'b'" in capsys.readouterr().err
    assert z("b") == z("a")
    assert "'b' is the same z as 'a'" in capsys.readouterr().err
    assert z("c") == [1.0, 0.0]
    assert capsys.readouterr().err == ""
