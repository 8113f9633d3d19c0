"""A text is found on a disk in whatever form it is there."""

import base64
import gzip
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from disk_traces import texts_held, tokens_of

TEXT = 'where is the café "Zürich" ?'


@pytest.mark.unit
def test_a_text_is_found_in_every_form_and_no_other_is(tmp_path: Path) -> None:
    forms = {
        "plain": f"a{TEXT}b".encode(),
        "json": json.dumps({"prompt": TEXT}).encode(),
        "utf-16": f"a{TEXT}".encode("utf-16"),
        "utf-16-be": TEXT.encode("utf-16-be"),
        "hex": TEXT.encode().hex().encode(),
        "gzip": gzip.compress(TEXT.encode()),
        "zlib": zlib.compress(TEXT.encode("utf-16")),
        **{f"base64-{before}": base64.b64encode(b"x" * before + TEXT.encode() + b"yz") for before in range(3)},
        **{kind: np.asarray([7, *tokens_of(TEXT), 9], dtype=kind).tobytes() for kind in ("<i2", "<i4", "<i8")},
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("inside", TEXT)
    assert texts_held(tmp_path, [TEXT, "what is a cafe ?"]) == {TEXT: {tmp_path / name for name in (*forms, "zip")}}
