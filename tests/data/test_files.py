import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.files import read_rows

pytestmark = pytest.mark.unit

ROWS = [{"chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(1009)]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:8be3\nsize 875191\n"


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_plain_and_gzip_and_parquet_hold_the_same_rows(tmp_path):
    plain, zipped, columns = (tmp_path / name for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"))
    plain.write_text(lines(ROWS))
    zipped.write_bytes(gzip.compress(lines(ROWS).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), columns)
    expected = list(enumerate(ROWS, start=1))
    assert list(read_rows(plain)) == list(read_rows(zipped)) == list(read_rows(columns)) == expected


def test_blank_lines_are_passed_over_and_counted_in_row_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n\n')
    assert list(read_rows(path)) == [(2, {"a": 1}), (4, {"a": 2})]


def test_parquet_keeps_messages(tmp_path):
    rows = [{"chosen": [{"role": "user", "content": "x"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == [(1, rows[0])]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_git_lfs_pointer_is_called_one_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(DataError, match=r"is a Git LFS pointer.*git lfs pull"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("content", ["", "\n \n"])
@pytest.mark.parametrize("compress", [str.encode, lambda text: gzip.compress(text.encode())])
def test_an_empty_file_is_an_error(tmp_path, content, compress):
    path = tmp_path / "a.jsonl"
    path.write_bytes(compress(content))
    with pytest.raises(DataError, match=r"a\.jsonl: is empty"):
        list(read_rows(path))


def test_parquet_without_rows_is_an_error(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"chosen": pyarrow.array([], "string")}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="is empty"):
        list(read_rows(tmp_path / "a.parquet"))


def test_broken_json_names_its_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(ROWS[:5]) + '{"chosen": "cut o')
    with pytest.raises(DataError, match=r"a\.jsonl:6: is not JSON \(Unterminated string.*cut off"):
        list(read_rows(path))


def test_a_row_that_is_no_object_names_its_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n["b"]\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: holds list"):
        list(read_rows(path))


def test_text_that_is_not_utf8_names_its_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: is not UTF-8"):
        list(read_rows(path))


def test_a_cut_gzip_file_names_the_row_it_broke_at(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(lines(ROWS).encode())
    path.write_bytes(whole[: len(whole) // 2])
    read = []
    with pytest.raises(DataError, match=r"the gzip stream breaks here") as error:
        read.extend(row for row in read_rows(path))
    number = int(error.value.where.rpartition(":")[2])
    assert 1 < number <= len(ROWS)


def test_garbage_inside_a_gzip_file_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    whole = bytearray(gzip.compress(lines(ROWS).encode()))
    whole[len(whole) // 2 : len(whole) // 2 + 97] = b"\x00" * 97
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:\d+: "):
        list(read_rows(path))


def test_broken_parquet_is_an_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\x00" * 101)
    with pytest.raises(DataError, match="is not readable as Parquet"):
        list(read_rows(tmp_path / "a.parquet"))


def test_missing_files_and_other_types_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_text("chosen,rejected\n")
    with pytest.raises(DataError, match=r"type '\.csv' is not known\. Known: \.jsonl, \.jsonl\.gz, \.parquet"):
        list(read_rows(tmp_path / "a.csv"))
