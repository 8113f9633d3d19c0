"""What ``fedvpa export`` writes, and what it refuses."""

import ssl
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.engines.flower.simulation import FLOWER_VERSIONS
from fedvpa.runs.config import read_config

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower
from fedvpa.deployment.keys import make_keys


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


@pytest.mark.reference
@pytest.mark.parametrize("host", ["server.example.org", "127.0.0.1"])
def test_certificates_pass_the_strict_checks_that_python_makes_from_3_13_on(host: str, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", host=host, nodes=1)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "keys" / "server.crt", tmp_path / "keys" / "server.key")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "keys" / "ca.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = trusting.wrap_bio(down, up, server_hostname=host), serving.wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert client.getpeercert()
    assert server.version() == client.version() == "TLSv1.3"
