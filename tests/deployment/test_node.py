"""What a node does with the pairs that it is given: small users are left out, and nothing of them is told."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict, UserConfig

from fedvpa.core.errors import DataError, InputError
from fedvpa.data.config import DataConfig
from fedvpa.data.load import load
from fedvpa.runs.config import dump, read_config
from fedvpa.world import backbone_path

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.deployment.node import client_app, load_node, node_config
from fedvpa.engines.flower.client import NodeError, discreet, introduction
from fedvpa.engines.flower.records import pack_introduction, unpack_introduction
from here_grid import task


def test_a_node_reads_its_own_table_whatever_set_the_configuration_names():
    given = ["data.source=prism", "data.settings.turns=opening", "data.split=train", "features.model=bundled"]
    found = node_config(read_config(None, given), "own.jsonl")
    assert (found.data.source, found.data.path, found.data.settings) == ("table", "own.jsonl", {})
    assert found.partition.drop_small


def rows(users: Sequence[int]) -> list[dict]:
    """Pairs of the bundled world: so many of each user."""
    table = load(DataConfig(source="world", users=len(users), pairs_per_user=max(users), seed=3))
    names = sorted({pair.user_id for pair in table.pairs})
    keys = ("user_id", "prompt", "chosen", "rejected")
    kept = [pair for name, count in zip(names, users, strict=True) for pair in of(table, name)[:count]]
    return [{key: getattr(pair, key) for key in keys} for pair in kept]


def of(table, name: str) -> list:
    return [pair for pair in table.pairs if pair.user_id == name]


def write(folder: Path, lines: list[dict], name: str = "pairs.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(dump(read_config(None, ("selector.latent=5",))))
    return tmp_path


@pytest.mark.unit
def test_a_user_too_small_to_split_is_left_out_and_named_in_the_nodes_log_alone(app: Path, capsys):
    """Of two pairs one is held out, so that one is left: too few for a context and a target."""
    lines = rows([12, 9])
    whole = load_node(str(app / "run.yaml"), write(app, lines, "whole.jsonl"), "").holder.partition.clients[0]
    two = [lines[whole.train[0]], lines[whole.test[0]]]
    lines += [{**line, "user_id": "small"} for line in two] + [{**lines[0], "user_id": "smaller"}]
    node = load_node(str(app / "run.yaml"), write(app, lines), "")
    assert node.left_out == ("small", "smaller")
    assert node.holder.client_ids == ("user-00000", "user-00001")
    capsys.readouterr()
    sent = pack_introduction(introduction(node))
    said = "left out, with too few pairs to learn from: 'small', 'smaller'. The server is told how many, not who."
    assert said in capsys.readouterr().err
    told = unpack_introduction(sent)
    assert (told.left_out, sorted(told.clients)) == (2, ["user-00000", "user-00001"])
    assert "small" not in json.dumps(dict(sent.config_records["facts"]))
    assert told.moments.count == 2 * sum(told.clients.values()), "nothing of the small users is in the moments"


@pytest.mark.unit
def test_a_user_whose_pairs_are_all_ties_changes_nothing_and_the_rows_are_counted(app: Path, capsys):
    lines = rows([12, 9])
    ties = [{**line, "user_id": "undecided", "rejected": line["chosen"]} for line in lines[:6]]
    node = load_node(str(app / "run.yaml"), write(app, [*lines, *ties]), "")
    alone = load_node(str(app / "run.yaml"), write(app, lines, "alone.jsonl"), "")
    assert node.holder.client_ids == alone.holder.client_ids
    assert (node.holder.moments.sum == alone.holder.moments.sum).all()
    capsys.readouterr()
    introduction(node)
    assert "6 rows left out: " in capsys.readouterr().err


@pytest.mark.unit
def test_a_node_without_a_usable_user_says_so(app: Path):
    with pytest.raises(DataError, match="too small"):
        load_node(str(app / "run.yaml"), write(app, rows([1, 1])), "")


@pytest.mark.unit
@pytest.mark.parametrize("case", ["missing", "broken", "no path"])
def test_what_a_node_cannot_read_is_said_there_and_hidden_from_the_server(case: str, app: Path, capsys):
    path = app / "secret-of-anna.jsonl"
    if case == "broken":
        path.write_text('{"user_id": "anna", "prompt": "x"\n')
    config = UserConfig() if case == "no path" else UserConfig({"data-path": str(path)})
    from flwr.app import Message, MessageType

    with task():
        message = Message(RecordDict(), dst_node_id=1, message_type=MessageType.QUERY)
        where = Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config=UserConfig())
        with pytest.raises(NodeError) as refused:
            client_app(app)(message, where)
    assert "its own log says why" in str(refused.value)
    assert "anna" not in str(refused.value)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedvpa: ")]
    assert ("secret-of-anna" if case != "no path" else "has no data-path") in said


@pytest.mark.unit
def test_an_error_of_any_kind_tells_the_server_its_class_alone(capsys):
    with pytest.raises(NodeError, match=r"^the node cannot go on \(KeyError\); its own log says why$"), discreet():
        raise KeyError("anna")
    assert "anna" in capsys.readouterr().err


@pytest.mark.equivalence
def test_nodes_hold_out_the_same_pairs_as_one_machine_without_a_word(app: Path):
    """A prompt is in the test pairs of a node exactly if it is in those of one machine that holds everything."""
    lines = rows([12, 9, 11, 7])
    whole = load_node(str(app / "run.yaml"), write(app, lines), "").holder.partition.by_id
    for number in range(2):
        own = [line for line in lines if int(line["user_id"][-1]) % 2 == number]
        node = load_node(str(app / "run.yaml"), write(app, own, f"{number}.jsonl"), "")
        for client in node.holder.partition.seen:
            theirs = [line for line in own if line["user_id"] == client.client_id]
            for part in ("train", "test"):
                here = [own[row]["prompt"] for row in getattr(client, part)]
                there = [lines[row]["prompt"] for row in getattr(whole[client.client_id], part)]
                assert here == there, (client.client_id, part)
            assert len(theirs) == len(client.train) + len(client.test)


@pytest.mark.unit
def test_a_path_is_text_whatever_yaml_would_read(app: Path):
    for name in ("1.5", "on", "a: b", "~", "null"):
        with pytest.raises(InputError, match=r"no such file") as refused:
            load_node(str(app / "run.yaml"), str(app / name), "")
        assert name in str(refused.value)


@pytest.mark.unit
def test_a_node_may_have_the_model_elsewhere_and_one_without_it_says_so_in_its_log(app: Path, capsys):
    own = write(app, rows([12, 9]))
    here = load_node(str(app / "run.yaml"), own, "")
    copy = shutil.copytree(backbone_path(), app / "copy")
    there = load_node(str(app / "run.yaml"), own, "", str(copy))
    assert there.reads == here.reads
    assert json.loads(here.reads)["model"].startswith("sha256:")
    assert introduction(there).reads == here.reads
    with pytest.raises(NodeError, match=r"^the node cannot go on \(ModelError\); its own log says why$"), discreet():
        load_node(str(app / "run.yaml"), own, "", str(app / "gone"))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedvpa: ")]
    assert f"{app / 'gone'}: There is no model folder here." in said
    assert """--node-config 'model-path="PATH"'""" in said
