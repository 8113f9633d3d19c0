"""Help and wrong input need none of the machinery that computes: asserted by what was imported, not by a clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

HEAVY = ("torch", "transformers", "datasets", "scipy", "sklearn", "matplotlib", "pandas", "pyarrow", "huggingface_hub")

PROBE = f"""
import contextlib, io, json, sys
from fedvpa.cli.main import main
for line in json.loads(sys.argv[1]):
    sys.argv[1:], said, code = line.split(), io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([line, code, said.getvalue(), sorted(set(sys.modules) & set({HEAVY!r}))]))
"""
"""Runs command lines one after the other in one process: what none of them imports, each alone does not either."""

WRONG = {
    "train sever.rounds=3": "'sever': is not known. Did you mean 'server'?",
    "train method=fedvpx": "There is no method 'fedvpx'. Did you mean 'fedvpl'?",
    "train data.source=tabel": "There is no source 'tabel'. Did you mean 'table'?",
    "train policy.judging.judge=wrld": "'policy.judging.judge': There is no judge",
    "train --config no.yaml": "no.yaml: cannot be read",
    "train data.source=table data.path=no.jsonl": "no.jsonl: no such file or folder",
    "train data.source=hh-rlhf data.path=nowhere": "nowhere: no such folder",
    "train features.model=./no": "./no: There is no model folder here",
    "train features.model=run": "run: The model folder has no config.json",
    "train --resume no": "no: holds no run",
    "compare sever.rounds=3": "'sever': is not known. Did you mean 'server'?",
    "compare --config no.yaml": "no.yaml: cannot be read",
    "compare data.source=table data.path=no.jsonl": "no.jsonl: no such file or folder",
    "align no": "no: holds no run",
    "align run polciy.steps=3": "'polciy': is not known. Did you mean 'policy'?",
    "evaluate no --pairs pairs.jsonl": "no: holds no run",
    "evaluate run --pairs no.jsonl": "no.jsonl: no such file or folder",
    "personalize no --pairs pairs.jsonl": "no: holds no run",
    "personalize run --pairs no.jsonl": "no.jsonl: no such file or folder",
    "generate no --prompt x": "no: holds no run",
    "report no": "no: holds neither comparison.json nor metrics.json",
    "export flower app sever.rounds=3": "'sever': is not known. Did you mean 'server'?",
}


def run_all(lines: list[str], cwd: Path) -> list[tuple[str, int, str, list[str]]]:
    """For each command line: itself, its exit code, its stderr, and the heavy packages imported so far."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(lines)], capture_output=True, text=True, cwd=cwd, check=True
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_the_package_and_its_configuration_are_light(tmp_path):
    code = (
        "import sys, fedvpa\n"
        "fedvpa.read_config(None, ['method=fedbiscuit', 'data.source=table', 'data.path=x', 'engine.codec=int8'])\n"
        f"print(sorted(set(sys.modules) & set({(*HEAVY, 'numpy')!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "[]\n"


def test_help_is_light(tmp_path):
    verbs = ("", "demo", "train", "align", "compare", "evaluate", "personalize", "generate", "report", "doctor")
    for line, code, _, heavy in run_all([f"{verb} --help" for verb in verbs], tmp_path):
        assert (code, heavy) == (0, []), line


def test_wrong_input_is_said_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("# schema_version: 1\nmethod: global\n")
    found = run_all(list(WRONG), tmp_path)
    assert len(found) == len(WRONG)
    for line, code, said, heavy in found:
        assert (code, heavy) == (2, []), line
        assert WRONG[line] in said
