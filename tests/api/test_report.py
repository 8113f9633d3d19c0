from pathlib import Path

import pytest

from fedvpa.api.report import report
from fedvpa.core.errors import RunError
from fedvpa.runs.folder import RunFolder


def test_a_folder_without_a_result_says_what_to_do_next(tmp_path: Path):
    run, comparison, other = tmp_path / "my run", tmp_path / "table", tmp_path / "other"
    RunFolder(run).checkpoint.parent.mkdir(parents=True)
    RunFolder(run).checkpoint.touch()
    (comparison / "cells").mkdir(parents=True)
    other.mkdir()
    with pytest.raises(RunError, match=f"fedvpa train --resume '{run}'"):
        report(run)
    with pytest.raises(RunError, match=f"fedvpa compare --out {comparison} again"):
        report(comparison)
    with pytest.raises(RunError, match="Give a finished run or comparison"):
        report(other)
