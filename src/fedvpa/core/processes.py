"""Several processes that do one command together, as ``torchrun`` and ``accelerate launch`` start them.

Two ways:

- :func:`together`: every process runs the same code and decides the same. Forward passes of language models are shared
  out and their results gathered, so that every process goes on with all of them.
- :func:`lead`: the first process runs the code; the others wait, and help wherever it asks them to (:func:`helped`).

The first process alone writes files and tells the user what is done; see :func:`fedvpa.core.progress.speaks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fedvpa.core.errors import FedvpaError
from fedvpa.core.rendezvous import collective, connected, launched
from fedvpa.core.signals import ignoring

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class EndedElsewhere(FedvpaError):
    """The error of the process that leads, in one that helps.

    Args:
        message: What it says.
        exit_code: What it exits with.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.exit_code)


@dataclass(frozen=True)
class Team:
    """The processes that do the work together; one that is alone is a team of one, whose functions do nothing.

    All processes have to call the same functions in the same order.

    Attributes:
        rank: The number of this process.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What of ``items`` this process does: every ``count``-th of them, from its number on."""
        return items[self.rank :: self.count]

    def gather(self, own: Item) -> list[Item]:
        """Everybody's, in the order of their numbers.

        Raises:
            ProcessLost: If another process has ended.
        """
        if _settle is not None and self.count > 1:
            _settle()
        return self.exchange(own)

    def exchange(self, own: Item) -> list[Item]:
        """:meth:`gather` in the middle of a forward pass that all processes take; see :func:`meet_by`."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        with collective() as (distributed, group):
            distributed.all_gather_object(found, own, group=group)
        return found

    def put_together(self, own: Sequence[Item]) -> list[Item]:
        """The results of all, in the order of the items that :meth:`share` shared out.

        Raises:
            ProcessLost: If another process has ended.
        """
        parts = self.gather(list(own))
        return [parts[number % self.count][number // self.count] for number in range(sum(map(len, parts)))]

    def told(self, value: Item) -> Item:
        """The first process's value.

        Raises:
            ProcessLost: If another process has ended.
        """
        if self.count == 1:
            return value
        found: list[Any] = [value]
        with collective() as (distributed, group):
            distributed.broadcast_object_list(found, src=0, group=group)
        value = found[0]
        return value

    def most(self, number: int) -> int:
        """The greatest of everybody's numbers.

        Raises:
            ProcessLost: If another process has ended.
        """
        return max(self.gather(number))

    def wait(self) -> None:
        """Go on when all processes have come here.

        Raises:
            ProcessLost: If another process has ended.
        """
        self.gather(None)

    def add(self, values: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in which it has the same shape; all get the same bits.

        Raises:
            ProcessLost: If another process has ended.
        """
        if self.count > 1:
            with collective() as (distributed, _):
                distributed.all_reduce(values)


ALONE = Team()

_active = ALONE
_leading: Team | None = None
_broken = False
_settle: Callable[[], None] | None = None


def meet_by(settle: Callable[[], None] | None) -> None:
    """Let ``settle`` run in every process before what they share out is gathered.

    Args:
        settle: Ends the work of processes whose forward passes depend on one another; None for work that does not.
    """
    global _settle
    _settle = settle


def current() -> Team:
    """The processes that are together here; one alone outside :func:`together`."""
    return _active


@contextmanager
def joined() -> Iterator[None]:
    """Connect the processes that a launcher started; of a single process nothing.

    Raises:
        ConfigError: If this process has no GPU of its own on a machine that has some.
        ProcessLost: If the others cannot be reached.
    """
    if launched():
        _team()
    yield


@contextmanager
def together() -> Iterator[Team]:
    """While inside, the processes that a launcher started run the same code and share out its forward passes.

    Raises:
        ConfigError: See :func:`joined`.
        ProcessLost: If the others cannot be reached.
    """
    with joined(), _as(_team() if launched() else ALONE) as team:
        try:
            yield team
        finally:
            meet_by(None)


@contextmanager
def alone() -> Iterator[None]:
    """While inside, this process does its work by itself."""
    with _as(ALONE):
        yield


def lead(work: Callable[[], Result]) -> Result:
    """Do the work in the first process; the others help where it asks them to, and get what it returns.

    Args:
        work: Its result must be picklable if there are several processes.

    Raises:
        EndedElsewhere: In a process that helps, if the work failed.
        ProcessLost: If another process has ended.
    """
    global _leading, _broken
    if not launched() or _leading is not None:
        return work()
    team = _team()
    if not team.main:
        return _help(team)
    _leading, _broken = team, False
    try:
        result = work()
    except BaseException as error:
        if not _broken and _active is ALONE:  # else the others are in the middle of something, and see this one end
            team.told((_failed, (str(error), getattr(error, "exit_code", 1))))
        raise
    finally:
        _leading = None
    team.told((None, result))
    return result


@contextmanager
def helped(function: Callable[..., None], *arguments: Any) -> Iterator[Team]:
    """While inside, a process that leads is together with the others, which call ``function(*arguments)``.

    Alone, or already together, nothing is asked of anybody.

    Args:
        function: What pickle can name; shares out the same forward passes as the code inside.
        *arguments: What pickle can send.
    """
    global _broken
    if _leading is None:
        yield _active
        return
    _leading.told((function, arguments))
    try:
        with _as(_leading):
            yield _leading
    except BaseException:
        _broken = True
        raise


def _help(team: Team) -> Any:
    with ignoring():  # the process that leads decides when to stop
        while True:
            function, arguments = team.told((None, None))
            if function is None:
                return arguments
            with _as(team):
                function(*arguments)


def _team() -> Team:
    return Team(*connected())


def _failed(message: str, exit_code: int) -> None:
    raise EndedElsewhere(message, exit_code)


@contextmanager
def _as(team: Team) -> Iterator[Team]:
    global _active
    before, _active = _active, team
    try:
        yield team
    finally:
        _active = before
