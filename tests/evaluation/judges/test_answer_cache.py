import threading
import time

import pytest

from fedvpa.core.errors import DataError
from fedvpa.evaluation.judges import answer_cache
from fedvpa.evaluation.judges.answer_cache import Answer, AnswerCache


@pytest.mark.unit
def test_a_torn_last_line_is_left_out_and_written_over(tmp_path):
    path = tmp_path / "judge.jsonl"
    answers = [Answer(f"key-{n}", "AB"[n % 2], "text\nü", n, 1) for n in range(3)]
    cache = AnswerCache(path)
    for answer in answers:
        cache.add(answer)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for torn in range(1, last):
        path.write_bytes(whole[:-torn])
        reread = AnswerCache(path)
        assert [reread.get(answer.key) for answer in answers] == [*answers[:2], None]
        reread.add(answers[2])
        assert path.read_bytes() == whole
    path.write_bytes(whole[:7])
    AnswerCache(path).add(answers[1])
    assert len(AnswerCache(path)) == 1


@pytest.mark.unit
def test_two_writers_can_fill_one_cache(tmp_path, monkeypatch):
    """Without the lock, the other one writes between the search for the end and the cut there."""
    search = answer_cache._end_of_lines

    def slow_search(file):
        end = search(file)
        time.sleep(0.001)
        return end

    monkeypatch.setattr(answer_cache, "_end_of_lines", slow_search)
    caches = [AnswerCache(tmp_path / "judge.jsonl") for _ in range(2)]
    threads = [
        threading.Thread(target=lambda n=n: [caches[n].add(Answer(f"{n}-{i}", "A", "A" * 999)) for i in range(41)])
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(AnswerCache(tmp_path / "judge.jsonl")) == 82


@pytest.mark.unit
@pytest.mark.parametrize("line", ['{"key": "k"}', '{"key": "k", "letter": "C", "text": ""}', "[]", "not JSON"])
def test_a_file_that_is_no_cache_is_refused_by_row(tmp_path, line):
    path = tmp_path / "judge.jsonl"
    AnswerCache(path).add(Answer("k", "A", "A"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"judge\.jsonl:2: This line is no answer"):
        AnswerCache(path)
