"""Output that no encoding of a terminal can break."""

import os
import subprocess
import sys

import pytest

TEXT = "━ Größe – café ↓ … ≥ 0.5 \N{GRINNING FACE} \ud83d ─"
SCRIPT = (
    f"from fedvpa.core.streams import widen; import sys; widen(); print({TEXT!a}); print({TEXT!a}, file=sys.stderr)"
)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "- Gr??e - caf? v ... >= 0.5 ? ? -"),
        ("latin-1", "- Größe - café v ... >= 0.5 ? ? -"),
        ("utf-8", "━ Größe – café ↓ … ≥ 0.5 \N{GRINNING FACE} ? ─"),
    ],
)
def test_what_an_encoding_lacks_becomes_its_nearest_plain_form(encoding: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert done.stdout.decode(encoding).rstrip() == shown
    assert done.stderr.decode(encoding).rstrip() == shown
