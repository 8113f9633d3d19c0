"""Signals: work ends at once in one message, or a first signal waits; handlers are given back."""

import os
import signal
import threading
from typing import Any

import pytest

from fedvpa.core.signals import Interrupted, interrupting, stopping

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.unit
@pytest.mark.parametrize("number", BOTH)
def test_a_signal_ends_the_work_in_one_message_and_its_finally_blocks_run(number: signal.Signals) -> None:
    before, cleaned = [signal.getsignal(one) for one in BOTH], []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail("a handler of errors took the signal for one")
        finally:
            cleaned.append(True)

    with pytest.raises(Interrupted) as stopped, interrupting("all is kept."):
        work()
    assert (str(stopped.value), stopped.value.exit_code) == (f"{number.name}: all is kept.", 128 + number)
    assert cleaned
    assert [signal.getsignal(one) for one in BOTH] == before


@pytest.mark.unit
def test_a_first_signal_waits_and_a_second_takes_the_course_it_has_outside(capsys: pytest.CaptureFixture[str]) -> None:
    reached = []

    def work() -> None:
        with stopping("wait") as stop:
            assert stop() == 0
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(stop())
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM: outside"), interrupting("outside."):
        work()
    assert reached == [signal.SIGINT]
    assert capsys.readouterr().err == "wait\n"


@pytest.mark.unit
def test_another_thread_leaves_signals_alone() -> None:
    found: list[Any] = []

    def work() -> None:
        with interrupting("kept."), stopping() as stop:
            found.append((stop(), [signal.getsignal(one) for one in BOTH]))

    before = [signal.getsignal(one) for one in BOTH]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, before)]
