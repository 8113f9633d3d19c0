"""The files of a policy's folder: what is missing, and what is damaged."""

from pathlib import Path

import pytest

from fedvpa.core.errors import RunError
from fedvpa.policy.files import read_policy

pytestmark = pytest.mark.unit


def test_a_folder_without_a_policy_and_a_damaged_one_are_told_apart(tmp_path: Path):
    with pytest.raises(RunError, match=r"holds no policy\. Run: fedvpa align RUN"):
        read_policy(tmp_path)
    for content in (b"{", b"\xff\xfe\0", b"[]"):
        (tmp_path / "policy.json").write_bytes(content)
        with pytest.raises(RunError, match=r"policy\.json: is damaged"):
            read_policy(tmp_path)
