"""A real vLLM engine in a real Ray actor: seeded, batch-independent, true log-probabilities,
reloaded in place.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.dispatcher import roll_out
from actors.env_runner import RunnerSetup
from actors.language_models.factory import eos_ids_of
from actors.language_models.vllm import VllmModel
from actors.runner_group import RunnerGroup
from actors.totals import Totals
from actors.vllm.engine import Arrived, EngineRequest
from actors.vllm.health import Report
from actors.vllm.server import HEALTH_GROUP
from actors.vllm.server_handle import ModelServer
from learners.common.adapters import own_adapter, whole
from r2v_dist.chat import ChatFormat, Turn
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.language_model import ContextLimitReached, Request, Sampling
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.checkpoints import Checkpoint, published
from tests.adapters import make_adapter

CONFIG = ModelConfig(backend="vllm", model="models/textworld-tiny", max_model_len=512)
TOLERANCE = 5e-3 if torch.cuda.is_available() else 1e-3
"""Of a log-probability, against float32 on the CPU: a GPU's attention kernel rounds what it
multiplies.
"""
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content | trim }}"
    "{% else %}<|assistant|> {{ m.content | trim }} <|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Writes a space before the token at which the model stops, as some models' templates do."""
HISTORY = (
    Turn("Goal: First, go east.\n-= Room3 =-\nThere is an exit to the east.", "go east", "teacher"),
)


@pytest.fixture(scope="module")
def server(ray_session: None, tiny_model: Path) -> Iterator[ModelServer]:
    server = ModelServer("slm", CONFIG, Checkpoint(str(tiny_model), "base"), adapter_rank=8)
    server.wait()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def prompts(tiny_model: Path) -> list[list[int]]:
    chat = ChatFormat(AutoTokenizer.from_pretrained(tiny_model), "slm")
    users = [
        f"-= Room{n} =-\nThere is a closed {c}-box here. There is a stand{n} here."
        for n, c in enumerate("ABCDEFGH", start=1)
    ]
    return [chat.prompt(HISTORY * (n % 3), user) for n, user in enumerate(users)]


def request(prompt: list[int], seed: int, n: int = 3, temperature: float = 0.9) -> EngineRequest:
    return EngineRequest(prompt, seed, n, temperature, 0.95, 8, 20, [0])


def sample(server: ModelServer, requests: list[EngineRequest]) -> list[Any]:
    _, answers = ray.get(server.actors[0].sample.remote(requests), timeout=120)
    return list(answers)


def hf_logprobs(path: Path, prompt: list[int], ids: list[int]) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)[torch.arange(len(ids)), torch.tensor(ids)].tolist()


def test_a_sample_is_a_function_of_its_request_alone(
    server: ModelServer, prompts: list[list[int]]
) -> None:
    requests = [request(prompt, seed) for seed, prompt in enumerate(prompts)]
    together = sample(server, requests)
    backwards = sample(server, requests[::-1])[::-1]
    alone = [sample(server, [one])[0] for one in requests]
    assert (
        [a.token_ids for a in together]
        == [a.token_ids for a in backwards]
        == [a.token_ids for a in alone]
    )
    other = sample(server, [request(prompt, seed + 100) for seed, prompt in enumerate(prompts)])
    assert [a.token_ids for a in together] != [a.token_ids for a in other]


def test_log_probabilities_are_the_models_own(
    server: ModelServer, prompts: list[list[int]], tiny_model: Path
) -> None:
    for answer, prompt in zip(
        sample(server, [request(p, 1) for p in prompts[:3]]), prompts, strict=False
    ):
        for ids, logprobs in zip(answer.token_ids, answer.logprobs, strict=True):
            assert logprobs == pytest.approx(hf_logprobs(tiny_model, prompt, ids), abs=TOLERANCE)
        assert len(answer.first_top) == 20
        best, logprob = answer.first_top.ids[0], answer.first_top.logprobs[0]
        assert [logprob] == pytest.approx(hf_logprobs(tiny_model, prompt, [best]), abs=TOLERANCE)


def likelier_mass(path: Path, prompt: list[int], ids: list[int], temperature: float) -> list[float]:
    """For every token, the mass of all that were likelier."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        logits_TV = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    p_TV = torch.softmax(logits_TV / temperature, -1)
    own_T1 = p_TV[torch.arange(len(ids)), torch.tensor(ids)].unsqueeze(1)
    return (p_TV * (p_TV > own_T1)).sum(-1).tolist()


@pytest.mark.parametrize("top_p", [0.3, 1.0])
def test_no_token_outside_of_the_nucleus_is_sampled_where_top_p_is_set(
    server: ModelServer, prompts: list[list[int]], tiny_model: Path, top_p: float
) -> None:
    asked = [replace(request(p, 3, n=4, temperature=2.0), top_p=top_p) for p in prompts[:2]]
    mass = [
        mass
        for one, answer in zip(asked, sample(server, asked), strict=True)
        for ids in answer.token_ids
        for mass in likelier_mass(tiny_model, one.prompt_ids, ids, 2.0)
    ]
    assert (max(mass) <= 0.3 + TOLERANCE) == (top_p == 0.3)


def test_many_long_prompts_at_once_do_not_end_the_engine(
    server: ModelServer, prompts: list[list[int]]
) -> None:
    long = [[*prompt, *[300 + n] * 300] for n in range(5) for prompt in prompts]
    answers = sample(server, [request(prompt, seed, n=1) for seed, prompt in enumerate(long)])
    assert len(answers) == 40


def test_weights_are_replaced_in_place(
    server: ModelServer, prompts: list[list[int]], tiny_model: Path, tmp_path: Path
) -> None:
    changed = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += 0.02 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(0)
            )
    changed.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, tmp_path)
    process = ray.get(server.actors[0].sample.remote([request(prompts[0], 0)]), timeout=60)
    assert process[0] == "base"
    server.load(Checkpoint(str(tmp_path), "changed"))
    version, [answer] = ray.get(
        server.actors[0].sample.remote([request(prompts[0], 0)]), timeout=60
    )
    assert version == "changed"
    for ids, logprobs in zip(answer.token_ids, answer.logprobs, strict=True):
        assert logprobs == pytest.approx(hf_logprobs(tmp_path, prompts[0], ids), abs=TOLERANCE)
    server.load(Checkpoint(str(tiny_model), "base"))
    _, [back] = ray.get(server.actors[0].sample.remote([request(prompts[0], 0)]), timeout=60)
    assert back.token_ids == process[1][0].token_ids


def test_an_adapter_is_added_to_the_model_and_makes_way_for_the_next(
    server: ModelServer, prompts: list[list[int]], tiny_model: Path, tmp_path: Path
) -> None:
    """An adapter answers as the weights into which it is merged, and none of them is read."""
    versions = ["base", "first", "second", "merged", "base"]
    checkpoints = {"base": Checkpoint(str(tiny_model), "base")}
    for seed, name in enumerate(["first", "second"]):
        make_adapter(tiny_model, tmp_path / name, seed, r=8)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_model / file, tmp_path / name)
        own_adapter(tmp_path / name, str(tiny_model))
        checkpoints[name] = published(tmp_path / name, name)
    merged = whole(checkpoints["second"], "float32")
    checkpoints["merged"] = Checkpoint(merged, "merged")
    answers = {}
    for version in versions:
        server.load(checkpoints[version])
        answered, answers[version] = ray.get(
            server.actors[0].sample.remote([request(prompt, 0) for prompt in prompts]), timeout=60
        )
        assert answered == version
    for by_adapter, by_weights in zip(answers["second"], answers["merged"], strict=True):
        assert by_adapter.token_ids == by_weights.token_ids
        for ours, theirs in zip(by_adapter.logprobs, by_weights.logprobs, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5 if TOLERANCE < 5e-3 else TOLERANCE)
    [first], [base] = answers["first"][0].logprobs[:1], answers["base"][0].logprobs[:1]
    assert first != pytest.approx(base, abs=0.01)
    ids = answers["second"][0].token_ids[0]
    said = answers["second"][0].logprobs[0]
    assert said == pytest.approx(hf_logprobs(Path(merged), prompts[0], ids), abs=TOLERANCE)


def test_the_client_batches_and_keeps_the_ids_it_sampled(
    server: ModelServer, tiny_model: Path
) -> None:
    calls: list[int] = []
    [handle] = server.handles()

    class Counted:
        async def __call__(self, requests: list[EngineRequest], /) -> AsyncIterator[Arrived]:
            calls.append(len(requests))
            async for arrived in handle(requests):
                yield arrived

        def cancel(self, request_id: str) -> None: ...

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = VllmModel([Counted()], tokenizer, CONFIG, "slm")
    requests = [
        Request(HISTORY, f"-= Room{n} =-\nThere is an exit to the west.", Sampling(n=2), n)
        for n in range(6)
    ]

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(model.sample(r) for r in requests))

    answers = asyncio.run(ask_all())
    assert calls == [6]
    for answer in answers:
        assert answer.version == "base"
        for candidate in answer.candidates:
            assert tokenizer.decode(list(candidate.token_ids)).strip() == candidate.text
            assert "<|end|>" not in candidate.text

    with pytest.raises(ContextLimitReached, match="512"):
        asyncio.run(model.sample(Request((), "north " * 600, Sampling(), 0)))


def test_an_answer_ends_where_the_model_stops_and_not_where_the_template_has_space(
    server: ModelServer, tiny_model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = SPACED
    model = VllmModel(server.handles(), tokenizer, CONFIG, "slm", eos_ids_of(tiny_model))
    user = "Goal: First, go east.\n-= Room3 =-\nThere is an exit to the east."
    answer = asyncio.run(model.sample(Request((), user, Sampling(n=4), 0)))
    assert len(answer.candidates) == 4
    assert all("<|end|>" not in candidate.text for candidate in answer.candidates)
    assert "go east" in {candidate.text for candidate in answer.candidates}
    for candidate in answer.candidates:
        assert candidate.token_ids is not None
        assert len(candidate.logprobs) == len(candidate.token_ids) + 1


def played(
    server: ModelServer,
    tiny_model: Path,
    tasks: list[Task],
    folder: Path,
    kill_after: int | None = None,
) -> list[tuple[Any, ...]]:
    """The outcomes of some units; the first engine is killed once so many are finished."""
    arm = Arm("slm_only", None, "base", "expert", 0)
    units = [Unit("evaluate", "h", task, z, 0, (arm,)) for task in tasks for z in range(6)]
    setup = RunnerSetup(
        CONFIG,
        ModelConfig(backend="expert"),
        str(tiny_model),
        "",
        PerturbConfig(),
        unit_timeout_s=200,
    )
    cluster = ClusterConfig(runners=1, in_flight=4, shard_episodes=2)
    killed: list[int] = []

    def kill_when_under_way(totals: Totals, _: int) -> None:
        if kill_after is not None and totals.units >= kill_after and not killed:
            killed.append(totals.units)
            ray.kill(server.actors[0], no_restart=False)

    runners = RunnerGroup(setup, server, None, cluster)
    roll_out(units, folder, runners, cluster, kill_when_under_way)
    runners.stop()
    assert kill_after is None or killed[0] < len(units)
    table = rollout_store.read(folder, ["key", "t", "action", "success"])
    return sorted(map(tuple, (row.values() for row in table.to_pylist())))


@pytest.mark.slow
def test_an_engine_killed_in_mid_stage_is_brought_back(
    server: ModelServer, tiny_model: Path, tasks: list[Task], tmp_path: Path
) -> None:
    """Its units go on with a new engine, and end with the outcomes of undisturbed ones."""
    undisturbed = played(server, tiny_model, tasks, tmp_path / "undisturbed")
    assert played(server, tiny_model, tasks, tmp_path / "killed", kill_after=4) == undisturbed
    assert server.restarts == 1


@pytest.mark.slow
def test_two_engines_play_as_one_and_outlive_the_death_of_either(
    server: ModelServer, tiny_model: Path, tasks: list[Task], tmp_path: Path
) -> None:
    alone = played(server, tiny_model, tasks, tmp_path / "alone")
    config = CONFIG.model_copy(update={"replicas": 2, "cpu_cores": "0-1"})
    pair = ModelServer("slm", config, Checkpoint(str(tiny_model), "base"))
    try:
        pair.wait()
        while not all(health(actor).version for actor in pair.actors):
            time.sleep(1.0)
        other = health(pair.actors[1])
        assert played(pair, tiny_model, tasks, tmp_path / "pair", kill_after=4) == alone
        after = health(pair.actors[1])
        assert after.process == other.process
        assert after.tokens > other.tokens
        pair.wait()
        assert pair.restarts == 1
    finally:
        pair.stop()


def health(actor: Any) -> Report:
    probe = actor.health.options(concurrency_group=HEALTH_GROUP).remote()
    report: Report = ray.get(probe, timeout=20)
    return report
