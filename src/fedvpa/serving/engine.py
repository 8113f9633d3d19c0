"""Continuous batching: requests of different users, with different z, are answered in one batch.

A thread of its own draws a token for every running row, again and again. A new request joins at the next step: the
prompts of all new ones are computed together, and their keys and values put below those of the running rows. A row
whose answer ends, or that nobody waits for, leaves at once (iteration-level scheduling: Yu et al., Orca, OSDI 2022).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch

from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.policy.decoding import decoding_obstacle
from fedvpa.policy.policy import Policy
from fedvpa.policy.sampling import check_sampling
from fedvpa.serving.admission import UNLIMITED, Admission, admission_of
from fedvpa.serving.generation import Generation
from fedvpa.serving.requests import GenerationRequest, QueueFull, ServingError, as_error, closed
from fedvpa.serving.row import Row
from fedvpa.serving.stats import EngineStats
from fedvpa.serving.workers import BatchWorker, SingleWorker, Worker

PACE = 0.1
"""Weight of the latest answer in the mean time that an answer takes. Chosen by us."""


class BatchEngine:
    """Answers many requests at once with one policy.

    Until :meth:`close` nobody else may use the policy. Where its architecture has no ordinary cache of keys and values,
    requests are answered one after the other; that is said.

    Args:
        policy: In evaluation mode.
        max_rows: Answers at once.
        max_waiting: Requests that may wait for a row.
        cache_tokens: Tokens for which keys and values may be held at once, padding included; requests beyond wait. None
            for as many as a quarter of the memory holds that is free now.

    Raises:
        ConfigError: If a number is below 1.
    """

    def __init__(
        self, policy: Policy, *, max_rows: int = 32, max_waiting: int = 128, cache_tokens: int | None = None
    ) -> None:
        for name, value in (("max_rows", max_rows), ("max_waiting", max_waiting), ("cache_tokens", cache_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} leaves no room for a request.", fix="Give at least 1.")
        self.policy = policy.eval()
        self._closing = self._stopping = False
        self._worker: Worker
        if decoding_obstacle(policy):
            self._worker, self._admission = SingleWorker(policy, lambda: self._stopping), Admission(1, UNLIMITED, 1)
        else:
            self._admission = admission_of(policy, max_rows, cache_tokens)
            self._worker = BatchWorker(policy)
        self._max_waiting = max_waiting
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._stats = EngineStats()
        self._thread = threading.Thread(target=self._run, name="fedvpa-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(0.0 if kind else None)

    @property
    def stats(self) -> EngineStats:
        """What has been done up to now, as a copy."""
        with self._changed:
            return replace(self._stats, waiting=len(self._waiting))

    def submit(self, request: GenerationRequest) -> Generation:
        """Ask for an answer; it joins the batch at the next step with a free row.

        Raises:
            QueueFull: If as many wait as may; says when to ask again.
            ServingError: If the engine is closed.
            ConfigError: If z is missing, unasked for, of the wrong size or not finite; if the sampling cannot be; if
                prompt and answer do not fit into the policy's positions or into the memory.
        """
        row = self._checked(request)
        with self._changed:
            if self._closing:
                raise ServingError("The engine takes no more requests: it is closed.")
            if len(self._waiting) >= self._max_waiting:
                self._stats.refused += 1
                turns = (len(self._waiting) + 1) / self._admission.max_rows
                raise QueueFull(len(self._waiting), max(1.0, turns * self._stats.seconds_per_answer))
            self._waiting.append(row)
            self._changed.notify()
        return row.generation

    def close(self, timeout: float | None) -> None:
        """Take no more requests, answer those that were taken, and stop.

        Args:
            timeout: Seconds after which answers that are not done break off; None for no limit.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        self._stopping = True
        self._thread.join()

    def _checked(self, request: GenerationRequest) -> Row:
        policy, sampling, z = self.policy, request.sampling, request.z
        check_sampling(sampling.temperature, sampling.top_p, sampling.max_new_tokens)
        latent = None if request.base or policy.conditioner is None else policy.conditioner.latent
        if (None if z is None else tuple(z.shape)) != (None if latent is None else (latent,)):
            whose = "base model" if request.base else "policy"
            takes = "no z" if latent is None else f"a z of {latent} numbers"
            given = "none is given" if z is None else f"one of shape {list(z.shape)} is given"
            raise ConfigError(f"The {whose} takes {takes}, and {given}.")
        if z is not None and not bool(z.isfinite().all()):
            raise ConfigError("A number of z is not finite.")
        if not len(request.prompt):
            raise ConfigError("The prompt has no tokens.", fix="Give a prompt with text.")
        if not all(request.stop):
            raise ConfigError("A stop text is empty.", fix="Leave it out.")
        if (request.top_logprobs or 0) < 0:
            raise ConfigError(f"{request.top_logprobs} log-probabilities cannot be given.", fix="Give 0 or more.")
        policy.check_room(len(request.prompt), sampling.max_new_tokens)
        row = Row(policy, Generation(request))
        self._admission.check(row)
        return row

    def _run(self) -> None:
        """The engine's thread: turn after turn, until it is closed."""
        error: FedvpaError = closed()
        try:
            with torch.inference_mode():
                while (new := self._next()) is not None:
                    self._turn(new)
        except Exception as broken:
            error = as_error(broken)
            raise
        finally:
            with self._changed:
                self._closing = True
                lost = [*self._worker.rows, *self._waiting]
                self._waiting.clear()
                self._stats.failed += len(lost)
                self._stats.running = self._stats.cache_tokens = 0
            for row in lost:
                row.generation.fail(error)
            self._worker.close()

    def _next(self) -> Sequence[Row] | None:
        """The rows that join now, once there is something to do; None if there is nothing, and nothing will be."""
        with self._changed:
            while not self._stopping:
                gone = [row for row in self._waiting if row.generation.cancelled]
                for row in gone:
                    self._waiting.remove(row)
                self._stats.cancelled += len(gone)
                new = self._admission.admit(self._waiting, self._worker.rows)
                if new or self._worker.rows:
                    self._stats.running = len(self._worker.rows) + len(new)
                    return new
                if self._closing:
                    return None
                self._changed.wait()
            return None

    def _turn(self, new: Sequence[Row]) -> None:
        began = time.monotonic()
        for row in new:
            row.begin(began)
        rows = [*self._worker.rows, *new]
        before = sum(row.drawn for row in rows)
        left = self._worker.turn(new)
        now = time.monotonic()
        for row, error in left:
            if error is not None:
                row.generation.fail(error)
        with self._changed:
            stats = self._stats
            stats.busy_seconds += now - began
            stats.steps += 1
            stats.prompt_tokens += sum(row.prompt_tokens for row in new)
            stats.generated_tokens += sum(row.drawn for row in rows) - before
            stats.running, stats.cache_tokens = len(self._worker.rows), self._worker.tokens
            for row, error in left:
                if error is not None:
                    stats.failed += 1
                elif row.finished:
                    stats.finished += 1
                    last = now - row.began
                    stats.seconds_per_answer += (last - stats.seconds_per_answer) * (
                        PACE if stats.finished > 1 else 1.0
                    )
                else:
                    stats.cancelled += 1
