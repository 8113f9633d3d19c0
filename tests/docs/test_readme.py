import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.mark.end_to_end
def test_the_python_example_of_the_readme_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 18
    short = code.replace('"server.rounds=100"', '"server.rounds=7"')
    assert short != code
    done = subprocess.run(
        [sys.executable, "-c", short],
        cwd=tmp_path,
        env={**os.environ, "FEDVPA_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert re.search(r"fedvpa_gp 0\.\d+ \[0\.\d+, 0\.\d+\] unseen: 0\.\d+", done.stdout), done.stdout
    assert (tmp_path / "runs" / "readme" / "selector" / "selector.safetensors").is_file()


@pytest.mark.unit
def test_every_file_that_the_readme_names_exists():
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:configs|docs|src|tests|benchmarks)/[\w./]*\w\.(?:py|yaml|md|png)", text))
    assert len(named) > 5
    assert not [name for name in named if not (README.parent / name).is_file()]
