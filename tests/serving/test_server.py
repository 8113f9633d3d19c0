"""How a server begins and ends: its port, its signals, and the requests that it has then."""

from __future__ import annotations

import signal
import threading

import httpx
import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.serving.server import address_of, listen
from policy_fixtures import make_policy
from server_fixtures import WORDS, held, make_state, running

pytestmark = pytest.mark.end_to_end

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "w1"}], "stream": True}


def test_a_port_in_use_is_one_line():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1 is in use. Choose another one, such as port="):
            listen("127.0.0.1", port)


def test_a_host_that_is_not_here_is_said():
    with pytest.raises(ConfigError, match="cannot be listened to"):
        listen("192.0.2.1", 0)


def test_an_address_of_six_has_brackets():
    class Six:
        def getsockname(self):
            return ("::1", 8000, 0, 0)

    assert address_of(Six()) == "http://[::1]:8000"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_streams_end_and_new_requests_are_turned_away(base_folder, tmp_path, number, capfd):
    with running(make_state(make_policy(base_folder, None), tmp_path / "keys.json")) as found:
        with held(found.engine), found.http() as http, http.stream("POST", "/v1/chat/completions", json=CHAT) as told:
            lines = told.iter_lines()
            next(lines)
            found.server.handle_exit(number, None)
            with found.http() as other:
                while other.get("/health").status_code == 200:  # the loop has not yet come to the signal
                    pass
                assert other.get("/health").json() == {"status": "draining"}
                turned = other.post("/v1/chat/completions", json=CHAT)
                assert (turned.status_code, turned.headers["Retry-After"]) == (503, "5")
                assert turned.json()["error"]["code"] == "draining"
            found.engine.finish(found.engine.begun[-1], 1)
            rest = "\n".join(lines)
        assert WORDS[4] in rest
        assert rest.rstrip().endswith("[DONE]")
        found.thread.join(30)
        assert (found.thread.is_alive(), found.server.unfinished) == (False, 0)
    assert f"{signal.Signals(number).name}: finishing 1 requests" in capfd.readouterr().err


def test_what_takes_longer_is_cut_off_and_counted(base_folder, tmp_path):
    state = make_state(make_policy(base_folder, None), tmp_path / "keys.json")
    with running(state, drain_seconds=0.05) as found:
        with held(found.engine), found.http() as http, http.stream("POST", "/v1/chat/completions", json=CHAT) as told:
            found.server.end()
            with pytest.raises(httpx.HTTPError):
                told.read()
        found.thread.join(30)
        assert found.server.unfinished == 1
    assert found.engine.begun[-1].gone.wait(30)


def test_a_second_signal_ends_at_once(base_folder, tmp_path):
    with running(make_state(make_policy(base_folder, None), tmp_path / "keys.json"), drain_seconds=600) as found:
        ended = threading.Event()

        def ask() -> None:
            with held(found.engine), found.http() as http, pytest.raises(httpx.HTTPError):
                http.post("/v1/chat/completions", json=CHAT)
            ended.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert found.engine.submitted.wait(10)
        found.server.handle_exit(signal.SIGTERM, None)
        found.server.handle_exit(signal.SIGTERM, None)
        assert ended.wait(30)
        asking.join()
