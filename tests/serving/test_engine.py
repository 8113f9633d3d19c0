"""Requests that are answered in one batch get the answers that each would get alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Lfm2Config, MixtralConfig, PreTrainedConfig, Qwen2Config

from fedvpa.core.errors import ConfigError, TrainingError
from fedvpa.policy.policy import Policy
from fedvpa.policy.sampling import Sampling
from fedvpa.serving import lane
from fedvpa.serving.engine import BatchEngine
from fedvpa.serving.generation import Generation
from fedvpa.serving.requests import GenerationRequest, QueueFull, ServingError
from policy_fixtures import BOS, EOS, SMALL, ids, latents, make_policy, make_tokenizer, prompts_and_responses

GREEDY = Sampling(temperature=0, max_new_tokens=11)
WARM = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=17)
FAMILIES: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SMALL),
    "gemma2": Gemma2Config(**SMALL, head_dim=6, query_pre_attn_scalar=6, sliding_window=9),
    "mixtral": MixtralConfig(**SMALL | {"intermediate_size": 32}, num_local_experts=3, num_experts_per_tok=2),
    "lfm2": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
}


def requests_of(policy: Policy, count: int = 9) -> list[GenerationRequest]:
    """Each third of the base model; temperatures, lengths, seeds and latents by turns."""
    prompts, _ = prompts_and_responses(count)
    z = latents(count)
    found = []
    for number, prompt in enumerate(prompts):
        base = number % 3 == 1
        own = None if base or policy.conditioner is None else z[number]
        how = [GREEDY, WARM, Sampling(temperature=1.0, max_new_tokens=3 + number)][(number // 2) % 3]
        found.append(GenerationRequest(prompt, own, how, seed=number, base=base))
    return found


def alone(policy: Policy, request: GenerationRequest) -> list[int]:
    """As ``Policy.generate`` draws it."""
    z = None if request.z is None else request.z[None]
    if request.base:
        with policy.reference() as base:
            return base.sample([request.prompt], None, request.sampling, request.seed, "generate")[0].tolist()
    return policy.sample([request.prompt], z, request.sampling, request.seed, "generate")[0].tolist()


def whole(generation: Generation) -> tuple[list[int], str, str | None]:
    pieces = list(generation)
    assert all(piece.finish is None for piece in pieces[:-1])
    return (
        [token for piece in pieces for token in piece.ids],
        "".join(piece.text for piece in pieces),
        pieces[-1].finish,
    )


def check(policy: Policy, count: int = 9, **engine: int) -> None:
    asked = requests_of(policy, count)
    expected = [alone(policy, request) for request in asked]
    with BatchEngine(policy, **engine) as running:
        found = [whole(generation) for generation in [running.submit(request) for request in asked]]
    stats = running.stats
    assert [tokens for tokens, _, _ in found] == expected
    assert [text for _, text, _ in found] == [policy.tokenizer.text(tokens) for tokens in expected]
    assert [finish for _, _, finish in found] == ["stop" if row[-1] == EOS else "length" for row in expected]
    assert stats.generated_tokens == sum(map(len, expected))
    assert stats.finished == count
    assert [alone(policy, request) for request in asked[:3]] == expected[:3], "the policy is as it was"


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", [None, "gated_lora", "soft_prefix", "additive"])
def test_answers_in_a_batch_are_those_of_the_policy_alone(policies, kind, capsys):
    check(policies[kind])
    assert capsys.readouterr().err == ""


@pytest.mark.equivalence
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("family", "said"),
    [("gemma2", ""), ("mixtral", "computed apart from the policy's"), ("lfm2", "left to transformers'")],
)
def test_other_architectures_answer_in_a_batch_or_one_by_one(family, said, tmp_path, capsys):
    torch.manual_seed(17)
    AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    policy = make_policy(tmp_path, "gated_lora")
    capsys.readouterr()
    check(policy, 5)
    told = capsys.readouterr().err
    assert said in told
    assert bool(said) is bool(told)


class Steps:
    """Holds the engine before each forward pass until it is let go on: ``steps.free()``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._permits, self._free, self._ordinary = threading.Semaphore(0), False, lane.next_logits
        self.came = threading.Semaphore(0)
        self.rows: list[int] = []
        self.spoil: Any = None
        monkeypatch.setattr(lane, "next_logits", self._step)

    def _step(self, network: Any, cache: Any, attention: Any, *given: Any, **inputs: Any) -> torch.Tensor:
        self.came.release()
        if not self._free:
            assert self._permits.acquire(timeout=60)
        self.rows.append(len(attention))
        logits = self._ordinary(network, cache, attention, *given, **inputs)
        return logits if self.spoil is None else self.spoil(logits)

    def await_one(self) -> None:
        """Until the engine is about to compute."""
        assert self.came.acquire(timeout=60)

    def free(self) -> None:
        self._free = True
        self._permits.release()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def long(z: torch.Tensor | None, seed: int = 0, tokens: int = 60, **more: Any) -> GenerationRequest:
    """A request whose answer goes on for a while: at such a temperature all tokens are about as likely."""
    return GenerationRequest(ids(BOS, 9, 11), z, Sampling(temperature=90.0, max_new_tokens=tokens), seed, **more)


@pytest.mark.equivalence
def test_requests_join_and_leave_while_others_are_drawn(policies, steps):
    policy, asked = policies["gated_lora"], requests_of(policies["gated_lora"], 9)
    expected = [alone(policy, request) for request in asked]
    with BatchEngine(policy, max_rows=4) as engine:
        found = [engine.submit(request) for request in asked[:2]]
        steps.await_one()
        found += [engine.submit(request) for request in asked[2:]]
        steps.free()
        assert [whole(generation)[0] for generation in found] == expected
    assert max(steps.rows) == 4
    assert sum(steps.rows) == sum(len(row) - 1 for row in expected), "no row is computed that is done"


@pytest.mark.equivalence
def test_a_batch_that_does_not_fit_into_memory_waits(policies, steps):
    policy, z = policies["soft_prefix"], latents(5)
    asked = [long(one, seed, 20) for seed, one in enumerate(z)]
    expected = [alone(policy, request) for request in asked]
    steps.free()
    with BatchEngine(policy, cache_tokens=2 * 23 + 5) as engine:
        found = [engine.submit(request) for request in asked]
        assert [whole(generation)[0] for generation in found] == expected
        with pytest.raises(ConfigError, match=r"3 tokens and an answer of 49 .* 51 tokens"):
            engine.submit(long(z[0], 0, 49))
    assert max(steps.rows) == 2


@pytest.mark.unit
def test_a_full_queue_says_when_to_ask_again(policies, steps):
    z = latents(1)[0]
    with BatchEngine(policies["gated_lora"], max_rows=1, max_waiting=1) as engine:
        first = engine.submit(long(z))
        steps.await_one()
        second = engine.submit(long(z, 1))
        with pytest.raises(QueueFull) as refused:
            engine.submit(long(z, 2))
        assert refused.value.retry_after >= 1
        assert (engine.stats.running, engine.stats.waiting, engine.stats.refused) == (1, 1, 1)
        second.cancel()
        steps.free()
        assert whole(first)[2] in {"stop", "length"}
        assert list(second) == []


@pytest.mark.unit
def test_a_cancelled_row_leaves_at_the_next_step(policies, steps):
    z = latents(2)
    with BatchEngine(policies["gated_lora"]) as engine:
        kept, gone = engine.submit(long(z[0], 3)), engine.submit(long(z[1], 4))
        steps.await_one()
        gone.cancel()
        steps.free()
        whole(kept)
    assert steps.rows[0] <= 2
    assert set(steps.rows[1:]) <= {1}
    assert engine.stats.cancelled == 1


@pytest.mark.unit
def test_closing_answers_what_was_taken_and_takes_no_more(policies, steps):
    z = latents(2)
    engine = BatchEngine(policies["gated_lora"], max_rows=1)
    found = [engine.submit(long(one, seed, 5)) for seed, one in enumerate(z)]
    steps.await_one()
    closing = threading.Thread(target=engine.close, args=(None,))
    closing.start()
    while not engine._closing:
        pass
    with pytest.raises(ServingError, match="no more requests"):
        engine.submit(long(z[0]))
    steps.free()
    closing.join(60)
    assert [whole(generation)[2] for generation in found] == ["length", "length"] or engine.stats.finished == 2
    assert engine.stats.running == engine.stats.waiting == 0


@pytest.mark.unit
def test_closing_at_once_breaks_answers_off(policies, steps):
    engine = BatchEngine(policies["gated_lora"], max_rows=1)
    found = [engine.submit(long(z, seed)) for seed, z in enumerate(latents(2))]
    steps.await_one()
    closing = threading.Thread(target=engine.close, args=(0.0,))
    closing.start()
    while not engine._stopping:
        pass
    steps.free()
    closing.join(60)
    for generation in found:
        with pytest.raises(ServingError, match="closed before"):
            list(generation)
    assert engine.stats.failed == 2


@pytest.mark.unit
def test_a_row_without_finite_logits_fails_alone(policies, steps):
    def spoil(logits: torch.Tensor) -> torch.Tensor:
        logits[0], steps.spoil = torch.nan, None
        return logits

    policy, z = policies["gated_lora"], latents(2)
    expected = alone(policy, long(z[1], 1, 7))
    steps.spoil = spoil
    with BatchEngine(policy) as engine:
        found = [engine.submit(long(z[0], 0, 7))]
        steps.await_one()
        found.append(engine.submit(long(z[1], 1, 7)))
        steps.free()
        with pytest.raises(TrainingError, match="no finite numbers"):
            list(found[0])
        assert whole(found[1])[0] == expected


@pytest.mark.unit
def test_an_error_of_the_model_reaches_the_readers_and_the_engine_goes_on(policies, steps):
    def fail(logits: torch.Tensor) -> torch.Tensor:
        steps.spoil = None
        raise RuntimeError("out of memory")

    z = latents(1)[0]
    steps.spoil = fail
    steps.free()
    with BatchEngine(policies["gated_lora"]) as engine:
        with pytest.raises(ServingError, match="RuntimeError: out of memory"):
            list(engine.submit(long(z, 3)))
        assert whole(engine.submit(long(z, 3, 5)))[2]
    assert (engine.stats.failed, engine.stats.finished) == (1, 1)


@pytest.mark.unit
def test_what_cannot_be_answered_is_refused_in_one_line(policies):
    z = latents(1)[0]
    with BatchEngine(policies["gated_lora"]) as engine:
        for request, problem in (
            (long(None), "a z of 3 numbers, and none"),
            (long(z[:2]), r"one of shape \[2\]"),
            (long(z, base=True), "base model takes no z"),
            (long(z * torch.inf), "not finite"),
            (long(z, tokens=0), "leaves no room"),
            (long(z, tokens=96), "do not fit into the policy's positions"),
            (long(z, stop=("",)), "stop text is empty"),
            (long(z, top_logprobs=-1), "cannot be given"),
            (GenerationRequest(ids(), z, GREEDY, 0), "no tokens"),
        ):
            with pytest.raises(ConfigError, match=problem):
                engine.submit(request)
    with BatchEngine(policies[None]) as engine, pytest.raises(ConfigError, match="policy takes no z"):
        engine.submit(long(z))
    with pytest.raises(ConfigError, match="max_rows=0"):
        BatchEngine(policies[None], max_rows=0)


@pytest.mark.reference
def test_log_probabilities_are_those_of_the_policy(policies):
    policy, z, prompt = policies["gated_lora"], latents(2), ids(BOS, 9, 11)
    how = Sampling(temperature=0.8, top_p=0.5, max_new_tokens=9)
    with BatchEngine(policy) as engine:
        asked = [GenerationRequest(prompt, z[row], how, 5, top_logprobs=3 * row) for row in (0, 1)]
        plain = engine.submit(GenerationRequest(prompt, z[0], how, 6))
        answers = [list(generation) for generation in [engine.submit(request) for request in asked]]
        assert all(piece.logprobs == () for piece in plain)
    for row, pieces in enumerate(answers):
        drawn = ids(*(token for piece in pieces for token in piece.ids))
        found = [entry for piece in pieces for entry in piece.logprobs]
        assert [entry.id for entry in found] == drawn.tolist()
        (expected,) = policy.token_log_probs([prompt], [drawn], z[row : row + 1])
        torch.testing.assert_close(torch.tensor([entry.logprob for entry in found]), torch.from_numpy(expected))
        for entry in found:
            assert len(entry.top) == 3 * row
            assert [value for _, _, value in entry.top] == sorted((value for _, _, value in entry.top), reverse=True)
            assert all(value <= entry.top[0][2] for value in [entry.logprob] if entry.top)
            assert entry.text == policy.tokenizer.base.decode([entry.id])


@pytest.mark.unit
def test_an_answer_ends_at_its_stop_text(policies):
    policy, z = policies["gated_lora"], latents(1)[0]
    request = GenerationRequest(ids(BOS, 9, 11), z, Sampling(temperature=0, max_new_tokens=9), 0)
    words = policy.tokenizer.text(alone(policy, request)).split()
    stop = f" {words[2]}"
    with BatchEngine(policy) as engine:
        tokens, text, finish = whole(engine.submit(GenerationRequest(*_fields(request), stop=(stop,))))
    assert text == policy.tokenizer.text(alone(policy, request)).partition(stop)[0]
    assert finish == "stop"
    assert len(tokens) <= 3


def _fields(request: GenerationRequest) -> tuple[Any, ...]:
    return request.prompt, request.z, request.sampling, request.seed


@pytest.mark.unit
def test_many_coroutines_read_at_once(policies):
    policy = policies["gated_lora"]
    asked = requests_of(policy, 6)

    async def answers(engine: BatchEngine) -> list[list[int]]:
        async def one(request: GenerationRequest) -> list[int]:
            return [token async for piece in engine.submit(request) for token in piece.ids]

        return await asyncio.gather(*map(one, asked))

    expected = [alone(policy, request) for request in asked]
    with BatchEngine(policy) as engine:
        assert asyncio.run(answers(engine)) == expected
