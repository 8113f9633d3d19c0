"""An answer in the making reaches its reader whole, in threads and in coroutines."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.policy.sampling import Sampling
from fedvpa.serving.generation import Generation
from fedvpa.serving.requests import GenerationRequest, Piece
from policy_fixtures import ids


def piece(text: str, finish=None) -> Piece:
    return Piece(text, tuple(map(ord, text)), (), finish)


@pytest.fixture
def generation() -> Generation:
    return Generation(GenerationRequest(ids(1), None, Sampling(), 0))


@pytest.mark.unit
def test_pieces_that_wait_come_as_one(generation):
    generation.put(piece("a"))
    generation.put(piece("bc", "stop"))
    assert list(generation) == [Piece("abc", (97, 98, 99), (), "stop")]
    assert not generation.cancelled


@pytest.mark.unit
def test_a_thread_waits_for_pieces(generation):
    found, got = [], threading.Event()

    def read() -> None:
        for part in generation:
            found.append(part.text)
            got.set()

    reader = threading.Thread(target=read)
    reader.start()
    generation.put(piece("a"))
    assert got.wait(30)
    generation.put(piece("b", "length"))
    reader.join(30)
    assert found == ["a", "b"]


@pytest.mark.unit
def test_a_coroutine_waits_without_blocking_its_loop(generation):
    async def both() -> list[str]:
        found = []

        async def read() -> None:
            async for part in generation:
                found.append(part.text)
                first.set()

        first, reader = asyncio.Event(), asyncio.ensure_future(read())
        await asyncio.sleep(0)  # the reader waits
        await asyncio.to_thread(generation.put, piece("a"))
        await first.wait()
        await asyncio.to_thread(generation.put, piece("b", "stop"))
        await reader
        return found

    assert asyncio.run(both()) == ["a", "b"]


@pytest.mark.unit
def test_an_error_comes_behind_the_pieces_as_it_was(generation):
    generation.put(piece("a"))
    generation.fail(ConfigError("too long"))
    found = iter(generation)
    assert next(found).text == "a"
    with pytest.raises(ConfigError, match="too long"):
        next(found)


@pytest.mark.unit
def test_who_leaves_early_cancels(generation):
    generation.put(piece("a"))
    for _ in generation:
        break
    assert generation.cancelled


@pytest.mark.unit
def test_cancelling_ends_the_loop_of_another_thread(generation):
    reader = threading.Thread(target=lambda: list(generation))
    reader.start()
    generation.cancel()
    reader.join(30)
    assert not reader.is_alive()
    generation.put(piece("a", "stop"))
    assert list(generation) == []


@pytest.mark.unit
def test_a_reader_whose_loop_is_closed_is_gone(generation):
    async def first() -> None:
        async for _ in generation:
            pass

    loop = asyncio.new_event_loop()
    task = loop.create_task(first())
    loop.call_soon(loop.stop)
    loop.run_forever()  # until the task waits
    loop.close()
    generation.put(piece("a"))
    assert generation.cancelled
    task._log_destroy_pending = False
