"""What ``fedvpa export`` writes, and what it refuses."""

import base64
import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.engines.flower.simulation import FLOWER_VERSIONS
from fedvpa.runs.config import read_config

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower, export_keys, export_node_key
from fedvpa.deployment.certificates import check_certificates
from fedvpa.deployment.keys import make_keys
from tls_handshake import strict_refusal


@pytest.mark.unit
def test_only_what_can_be_deployed_is_exported_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="users of its nodes"):
        export_flower(read_config(None, ("partition.unseen=3",)), tmp_path / "a", out=tmp_path, nodes=2)
    for method in ("oracle", "local"):
        with pytest.raises(ConfigError, match=f"'{method}' cannot be deployed"):
            export_flower(read_config(None, (f"method={method}",)), tmp_path / "a", out=tmp_path, nodes=2)
    assert not (tmp_path / "a").exists()
    export_flower(read_config(None, ()), tmp_path / "a", out=tmp_path, nodes=2)
    with pytest.raises(RunError, match="holds files already"):
        export_flower(read_config(None, ()), tmp_path / "a", out=tmp_path, nodes=2)
    make_keys(tmp_path / "keys", host="example.org", nodes=1)
    assert (tmp_path / "keys" / "node-0.key").stat().st_mode & 0o077 == 0, "private keys are private"
    with pytest.raises(RunError, match="holds files already"):
        make_keys(tmp_path / "keys", host="example.org", nodes=1)


@pytest.mark.unit
def test_an_app_asks_for_the_oldest_flower_that_fedvpa_takes(tmp_path: Path) -> None:
    export_flower(read_config(None, ()), tmp_path / "app", out=tmp_path, nodes=2)
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = f"{FLOWER_VERSIONS[0]}.0"
    assert project["project"]["dependencies"][0] == f"flwr>={oldest}"
    assert project["tool"]["flwr"]["app"]["flwr-version-target"] == oldest


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"nodes": 0}, "nodes"),
        ({"nodes": -2}, "nodes"),
        ({"deadline": -1.0}, "deadline"),
        ({"deadline": 0.0}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"deadline": 1e9}, "deadline"),
        ({"quorum": 5.0}, "quorum"),
        ({"quorum": 0.0}, "quorum"),
        ({"quorum": float("inf")}, "quorum"),
    ],
)
def test_terms_that_cannot_be_are_refused_and_nothing_is_written(changed: dict, key: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"'{key}'"):
        export_flower(read_config(None, ()), tmp_path / "a", out=tmp_path, **{"nodes": 2, **changed})
    assert not (tmp_path / "a").exists()


@pytest.mark.unit
@pytest.mark.parametrize("name", ["runs", 'a "b" c', "back\\slash", "ü 😀", "tab\tbell\x07\x7f"])
def test_a_path_of_any_letters_arrives_at_the_server(name: str, tmp_path: Path):
    export_flower(read_config(None, ()), tmp_path / "app", out=tmp_path / name, nodes=3, deadline=60, quorum=0.9)
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text(encoding="utf-8"))
    given = project["tool"]["flwr"]["app"]["config"]
    assert given == {"out": str(tmp_path / name), "nodes": 3, "deadline": 60.0, "quorum": 0.9}


@pytest.mark.unit
def test_the_guide_gives_each_node_of_one_machine_a_port_of_its_own(tmp_path: Path):
    from flwr.supercore.constant import SUPERNODE_UVICORN_DEFAULT_PORT

    export_flower(read_config(None, ()), tmp_path / "app", out=tmp_path, nodes=3)
    guide = (tmp_path / "app" / "README.md").read_text(encoding="utf-8")
    ports = [int(port) for port in re.findall(r"--port (\d+) ", guide)]
    assert ports == [SUPERNODE_UVICORN_DEFAULT_PORT + number for number in range(3)]


@pytest.mark.unit
def test_the_key_of_the_authority_is_in_no_folder_of_the_federation(tmp_path: Path):
    made = export_keys(tmp_path / "keys", host="example.org", nodes=2)
    assert made.to_dict() == {"keys": str(tmp_path / "keys"), "authority": str(tmp_path / "keys-ca")}
    assert sorted(path.name for path in made.keys.iterdir()) == [
        *("ca.crt", "node-0.key", "node-0.pub", "node-1.key", "node-1.pub", "server.crt", "server.key"),
    ]
    assert [path.name for path in made.authority.iterdir()] == ["ca.key"]
    assert (made.authority.stat().st_mode & 0o077, (made.authority / "ca.key").stat().st_mode & 0o077) == (0, 0)
    (tmp_path / "keys").rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"keys-ca: holds files already"):
        make_keys(tmp_path / "keys", host="example.org", nodes=1)
    assert not (tmp_path / "keys").exists()


@pytest.mark.unit
def test_a_node_makes_its_own_key_and_only_the_public_one_is_sent(tmp_path: Path):
    from flwr.cli.supernode.register import try_load_public_key

    server = export_keys(tmp_path / "keys", host="example.org").keys
    assert sorted(path.name for path in server.iterdir()) == ["ca.crt", "server.crt", "server.key"]
    node = tmp_path / "node"
    node.mkdir()
    (node / "ca.crt").write_bytes((server / "ca.crt").read_bytes())
    made = export_node_key(node, name="hospital-a")
    assert (made.private, made.public) == (node / "hospital-a.key", node / "hospital-a.pub")
    assert made.private.stat().st_mode & 0o077 == 0
    assert try_load_public_key(made.public), "Flower takes it"
    blob = base64.b64decode(made.public.read_text().split()[1])
    told = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    assert made.fingerprint == f"SHA256:{told}", "as ssh-keygen -lf prints it"
    assert check_certificates(node).problems == ()
    kept = made.private.read_bytes()
    with pytest.raises(RunError, match=r"hospital-a\.key: there is such a key already.*is a new node"):
        export_node_key(node, name="hospital-a")
    assert made.private.read_bytes() == kept
    export_node_key(node)
    made.private.write_bytes((node / "node.key").read_bytes())
    (problem,) = check_certificates(node).problems
    assert "hospital-a.key: does not belong to hospital-a.pub" in problem


@pytest.mark.unit
@pytest.mark.parametrize("name", ["", "server", "ca", "../a", "a/b", ".hidden", "ü", "a" * 200])
def test_what_cannot_name_a_key_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot name the key of a node"):
        export_node_key(tmp_path / "node", name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
@pytest.mark.parametrize(
    "host", ["", "server:9092", "http://server", "a b", "bücher.example", "-a.org", "a..b", "x" * 64]
)
def test_what_is_no_name_of_a_server_gets_no_certificate(host: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="is no name or address of a server"):
        make_keys(tmp_path / "keys", host=host, nodes=1)
    with pytest.raises(ConfigError, match="no keys for -1 nodes"):
        make_keys(tmp_path / "keys", host="example.org", nodes=-1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reference
@pytest.mark.parametrize("host", ["server.example.org", "127.0.0.1", "::1", f"{'a' * 60}.{'b' * 60}.example.org"])
def test_certificates_pass_the_strict_checks_that_python_makes_from_3_13_on(host: str, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", host=host, nodes=1)
    assert strict_refusal(tmp_path / "keys", host) is None
