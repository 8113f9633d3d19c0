import multiprocessing
import os

import pytest

from fedvpa.core.options import VARIABLE, column_option, flags, new_pairs, option

pytestmark = pytest.mark.unit


def test_an_argument_is_named_as_the_caller_writes_it():
    assert option("group_column", "kind") == "group_column=kind"
    assert option("overwrite", "True") == "overwrite=True"
    with flags():
        assert option("group_column", "kind") == "--group-column kind"
        assert option("overwrite", "True") == "--overwrite"
        assert option("columns") == "--map"
    assert option("top_p") == "top_p"
    assert VARIABLE not in os.environ


def test_a_column_is_named_in_three_ways():
    assert column_option("user_id", "worker") == "data.map.user_id=worker"
    with new_pairs():
        assert column_option("user_id", "worker") == 'columns={"user_id": "worker"}'
        assert option("user") == "user"
    with flags(), new_pairs():
        assert column_option("user_id", "worker") == "--map user_id=worker"


def test_processes_that_the_command_line_starts_speak_as_it_does():
    with flags(), multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(option, ("holdout",)) == "--holdout"
