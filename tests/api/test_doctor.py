"""Ports, certificates and the way to a SuperLink, checked before Flower refuses them."""

import datetime
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from importlib import metadata
from pathlib import Path

import pytest

from command_line import fedvpa
from fedvpa.api.doctor import doctor
from fedvpa.core.errors import ConfigError
from fedvpa.deployment import network

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.deployment.certificates import check_certificates
from fedvpa.deployment.keys import make_keys

HOST = "127.0.0.1"
WANTED = "1.41.* or 1.42.*: pip install 'fedvpa[flower]'."
YEARS = datetime.timedelta(days=800)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, host in (("one", HOST), ("two", "server.example.org")):
        make_keys(folder / name, host=host, nodes=2)
    return folder


@pytest.fixture
def keys(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "one", tmp_path / "keys"))


@pytest.mark.unit
def test_what_was_exported_is_in_order_on_the_server_and_on_a_node(keys: Path):
    found = check_certificates(keys, HOST)
    assert found.problems == ()
    assert found.hosts == (HOST,)
    ends = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365)).date()
    assert set(found.expires.values()) <= {str(ends), str(ends - datetime.timedelta(days=1))}
    for name in ("server.crt", "server.key", "node-0.key", "node-0.pub", "node-1.pub"):
        (keys / name).unlink()
    found = check_certificates(keys, HOST)
    assert (found.problems, found.hosts, list(found.expires)) == ((), (), ["ca.crt"])


def spoil(case: str, keys: Path, other: Path) -> None:
    """Break one thing."""
    if case == "no ca":
        (keys / "ca.crt").unlink()
    elif case == "other ca":
        shutil.copy(other / "ca.crt", keys)
    elif case == "damaged":
        (keys / "server.crt").write_bytes((keys / "server.crt").read_bytes()[:200])
    elif case == "other key":
        shutil.copy(other / "server.key", keys)
    elif case == "other node":
        shutil.copy(other / "node-1.pub", keys)
    elif case == "damaged key":
        (keys / "node-0.key").write_text("secret")
    elif case == "authority":
        shutil.copy(other.with_name("two-ca") / "ca.key", keys)
    elif case == "open key":
        (keys / "node-1.key").chmod(0o644)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("case", "file", "said"),
    [
        ("no ca", "", "there is no ca.crt. Make one with fedvpa export keys"),
        ("other ca", "server.crt", "ca.crt has not issued it"),
        ("damaged", "server.crt", "cannot be read: it is damaged"),
        ("other key", "server.key", "does not belong to server.crt"),
        ("other node", "node-1.key", "does not belong to node-1.pub"),
        ("damaged key", "node-0.key", "cannot be read: it is damaged"),
        ("open key", "node-1.key", "others on this machine can read it. chmod 600"),
        ("authority", "ca.key", "whoever has it can pass for the server"),
    ],
)
def test_each_fault_is_named_with_what_to_do(case: str, file: str, said: str, keys: Path, made: Path):
    spoil(case, keys, made / "two")
    (problem,) = check_certificates(keys, HOST).problems
    assert problem.startswith(f"{keys / file}: ")
    assert said in problem


@pytest.mark.unit
def test_dates_and_names_are_checked(made: Path):
    now = datetime.datetime.now(datetime.UTC)
    for name, at, said in (("late", now + YEARS, "expired on"), ("early", now - YEARS, "this machine's clock")):
        problems = check_certificates(made / "one", HOST, at).problems
        assert [said in problem for problem in problems] == [True, True], name
    two = made / "two"
    for host, fits in (("server.example.org", True), ("SERVER.example.org", True), ("example.org", False)):
        assert bool(check_certificates(two, host).problems) != fits
    (problem,) = check_certificates(two, HOST).problems
    assert f"is valid for server.example.org, and not for {HOST}. Make another" in problem
    assert not check_certificates(two).problems


@pytest.mark.unit
def test_a_wildcard_covers_one_label_and_an_address_itself():
    from fedvpa.deployment.certificates import _covers

    assert _covers("*.example.org", "server.example.org")
    assert not _covers("*.example.org", "a.server.example.org")
    assert not _covers("*.example.org", "example.org")
    assert _covers("::1", "0:0:0:0:0:0:0:1")
    assert not _covers("*", "server")


@pytest.mark.unit
def test_ports_are_flowers_own_and_one_in_use_is_said_with_what_to_do(monkeypatch):
    from flwr.supercore import constant

    assert network.PORTS == {
        "flower-superlink": constant.SUPERLINK_UVICORN_DEFAULT_PORT,
        "flower-supernode": constant.SUPERNODE_UVICORN_DEFAULT_PORT,
    }
    with socket.socket() as taken, socket.socket() as free:
        for one in (taken, free):
            one.bind((HOST, 0))
        taken.listen()
        numbers = [one.getsockname()[1] for one in (taken, free)]
        free.close()
        monkeypatch.setattr(network, "PORTS", dict(zip(("taken", "free"), numbers, strict=True)))
        found = doctor()
    assert found.ports["taken"].startswith(f"{numbers[0]} is in use: if that is not taken itself, start it with")
    assert found.ports["free"] == f"{numbers[1]} is free"
    assert found.ok


@pytest.mark.unit
@pytest.mark.parametrize(
    ("version", "accepted"),
    [("1.40.2", False), ("1.41.0", True), ("1.42.3", True), ("1.43.0", False), ("1.410.0", False)],
)
def test_flower_is_accepted_in_the_releases_it_was_tested_with(version: str, accepted: bool, monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "flwr" else installed(name))
    problems = doctor().problems
    assert list(problems) == (
        [] if accepted else [f"flwr {version} is installed, and engine.name=flower needs {WANTED}"]
    )


@contextmanager
def listener(keys: Path | None, *, date: float | None = None) -> Iterator[str]:
    """A server that answers every request with its time, with TLS if it has keys.

    Args:
        keys: Of its certificate.
        date: How far its clock is ahead, in seconds; None if it does not tell its time.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if keys is not None:
        context.load_cert_chain(keys / "server.crt", keys / "server.key")

    def answer(connection: socket.socket) -> None:
        connection.settimeout(2)
        with connection if keys is None else context.wrap_socket(connection, server_side=True) as end:
            if end.recv(1000).startswith(b"GET /health"):
                line = "" if date is None else f"Date: {formatdate(time.time() + date, usegmt=True)}\r\n"
                end.sendall(f"HTTP/1.1 200 OK\r\n{line}Content-Length: 0\r\n\r\n".encode())
            else:
                end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def serve() -> None:
        while not closed.is_set():
            try:
                connection, _ = server.accept()
                answer(connection)
            except (OSError, ValueError):
                continue

    closed = threading.Event()
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"{HOST}:{server.getsockname()[1]}"
        closed.set()
        thread.join(10)


@pytest.mark.unit
def test_a_superlink_is_reached_with_its_ca_and_with_no_other(made: Path):
    one, two = made / "one", made / "two"
    with listener(one) as address:
        found = doctor(certificates=one, host=HOST, superlink=address)
    assert (found.superlink, found.problems, found.ok) == ("reachable", (), True)
    assert list(found.certificates.hosts) == [HOST]
    with listener(one) as address:
        found = doctor(certificates=two, superlink=address)
    assert (found.superlink, found.ok) == ("unreachable", False)
    assert "its certificate is refused" in found.problems[0]
    with listener(None) as address:
        assert "answers, but not with TLS" in doctor(certificates=one, superlink=address).problems[0]
    with listener(None) as address:
        assert doctor(superlink=address).ok
    # Nobody listens there any more.
    (problem,) = doctor(superlink=address).problems
    assert problem.startswith(f"{address}: no SuperLink answers (Connection refused). Check that it runs there")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (-60.0, "60 s ahead"),
        (400.0, "400 s behind"),
        (-4.0, None),
        (299.0, None),
        (0.0, None),
    ],
)
def test_a_clock_that_flower_refuses_is_found_and_by_how_much(theirs: float, said: str | None, made: Path):
    with listener(made / "one", date=theirs) as address:
        found = doctor(certificates=made / "one", superlink=address)
    assert found.clock_ahead_s == pytest.approx(-theirs, abs=0.8)
    assert found.to_dict()["clock_ahead_s"] == found.clock_ahead_s
    if said is None:
        assert found.ok
        return
    (problem,) = found.problems
    bounds = "Flower refuses a node whose clock is more than 5 s ahead or 305 s behind"
    assert f"this machine's clock is {said}. {bounds}" in problem


@pytest.mark.unit
def test_a_clock_is_compared_with_and_without_tls_and_without_trust(made: Path):
    for keys in (None, made / "two"):
        with listener(keys, date=0.0) as address:
            for shift in (0.0, 5.5, -310.0):
                found = network.clock_difference(address, lambda shift=shift: time.time() + shift)
                assert found == pytest.approx(shift, abs=0.8)
    with listener(None) as address:
        assert network.clock_difference(address) is None, "no time came back"
    assert network.clock_difference(address) is None, "nobody is there any more"


@pytest.mark.reference
@pytest.mark.parametrize("ahead", [-305.0, -304.9, 0.0, 4.9, 5.0])
def test_a_clock_is_refused_exactly_where_flower_refuses_it(ahead: float):
    from flwr.common import constant

    accepted = -constant.SYSTEM_TIME_TOLERANCE < -ahead < constant.TIMESTAMP_TOLERANCE + constant.SYSTEM_TIME_TOLERANCE
    assert (network.clock_problem("here:1", ahead) is None) == accepted


@pytest.mark.unit
@pytest.mark.parametrize("address", ["server", "server:", ":9092", "server:many", "server:99999"])
def test_what_is_no_address_is_wrong_input(address: str):
    with pytest.raises(ConfigError, match=r"is no address\. Write HOST:PORT"):
        doctor(superlink=address)


@pytest.mark.end_to_end
def test_the_command_says_what_is_wrong_and_fails(keys: Path):
    shutil.rmtree(keys)
    done = fedvpa("doctor", "--certificates", keys, "--json")
    assert done.returncode == 1
    assert "there is no ca.crt" in json.loads(done.stdout)["problems"][0]
    done = fedvpa("doctor", "--host", "example.org")
    assert done.returncode == 2
    assert "Give --certificates too" in done.stderr
