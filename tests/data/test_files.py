import csv
import gzip
import io
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


def test_missing_files_folders_and_other_types_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_rows(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(DataError, match=r"b\.jsonl: is a folder"):
        list(read_rows(tmp_path / "b.jsonl"))
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"type '\.xlsx' is not known\. Known: \.jsonl, \.jsonl\.gz, \.csv"):
        list(read_rows(tmp_path / "a.xlsx"))


ODD = [{"chosen": 'say "é", 用户 🙂', "rejected": "two\nlines; a\tand, so on"}, {"chosen": "", "rejected": " b "}]


def delimited(delimiter):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["chosen", "rejected"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ODD)
    return text.getvalue()


CONTENTS = {
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ODD),
    "a.json": json.dumps(ODD, indent=2, ensure_ascii=False),
    "a.csv": delimited(","),
    "b.csv": delimited(";"),
    "c.csv": delimited("\t"),
    "a.TSV": delimited("\t"),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_all_types_hold_the_same_rows_in_every_encoding(tmp_path, name, encoding, compress):
    path = tmp_path / (name if compress is bytes else f"{name}.gz")
    path.write_bytes(compress(CONTENTS[name].encode(encoding)))
    assert [row for _, row in read_rows(path)] == ODD


def test_csv_rows_are_numbered_by_the_line_that_they_begin_on(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('chosen , rejected\r\n"one\r\ntwo",x\r\n\r\nlast,y\r\n', newline="")
    assert list(read_rows(path)) == [
        (2, {"chosen": "one\r\ntwo", "rejected": "x"}),
        (5, {"chosen": "last", "rejected": "y"}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chosen,rejected\na,b\nc\n", r"a\.csv:3: this row has 1 cells, and the header names 2"),
        ("chosen,rejected\na,b,c\n", r"a\.csv:2: this row has 3 cells"),
        ('chosen,rejected\na,b\nc,"d\n', r"a\.csv:3: the quotes of this row"),
        ('chosen,rejected\na,"b"c\n', r"a\.csv:2: the quotes of this row"),
        ("chosen,chosen\na,b\n", r"a\.csv:1: has two columns 'chosen'"),
        ("chosen,rejected\n", r"a\.csv: is empty"),
        ("", r"a\.csv: is empty"),
    ],
)
def test_a_broken_csv_file_names_its_row(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / "a.csv"))


def test_a_long_cell_is_read_and_the_limit_of_the_csv_module_stays(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(f"chosen,rejected\n{'x' * 200_003},y\n")
    assert [len(row["chosen"]) for _, row in read_rows(tmp_path / "a.csv")] == [200_003]
    assert csv.field_size_limit() == before


def test_a_json_file_may_hold_json_lines(tmp_path):
    (tmp_path / "a.json").write_text("\n" + lines(ROWS[:5]))
    assert list(read_rows(tmp_path / "a.json")) == [(number + 2, row) for number, row in enumerate(ROWS[:5])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1},\n{"a": 2]', r"a\.json: is not JSON \(.* at line 2, column 8\)"),
        ('[{"a": 1}, 7]', r"a\.json:2: holds int"),
        ("[]", r"a\.json: is empty"),
    ],
)
def test_a_broken_json_file_says_where(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / "a.json"))


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "9" * 5_003])
def test_json_that_python_cannot_hold_names_its_row(tmp_path, value):
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{{"a": {value}}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: is JSON that cannot be read"):
        list(read_rows(tmp_path / "a.jsonl"))


def test_utf16_that_breaks_off_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"a": 1}\n{"a": "é"}'.encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"a\.jsonl:\d: is not UTF-16\S* text"):
        list(read_rows(tmp_path / "a.jsonl"))
