"""A policy behind a server: a real one over HTTP, with the shipped model in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

pytest.importorskip("torch")
pytest.importorskip("openai", reason="the extra `servers` is not installed")

import llmgym
from llmgym.agents.evaluation import evaluate
from llmgym.agents.policies import Policy
from llmgym.agents.servers import ServerPolicy
from llmgym.agents.text_evaluation import evaluate_texts
from llmgym.errors import InvalidOptionError, LLMGymError, WrongEnvironmentError
from llmgym.tasks import Problem
from llmgym.transcript import Transcript
from llmgym.vector import LanguageVectorEnv
from tests.unit.agent_servers import MODEL, TinyServer

ENV = "llmgym/MathReason-v0"


@pytest.fixture(scope="module")
def running() -> Iterator[TinyServer]:
    with TinyServer() as server:
        yield server


@pytest.fixture
def server(running: TinyServer) -> TinyServer:
    running.requests, running.answers, running.delay, running.key = [], [], 0.0, None
    return running


def make(unit: str, num_envs: int = 4, **options: Any) -> Any:
    return gym.make_vec(ENV, num_envs=num_envs, action_unit=unit, autoreset_mode="disabled", **options)


class PartsTask:
    """Asks the same question twice more after the first answer."""

    replies = True

    def sample(self, rng: np.random.Generator) -> Problem:
        return Problem(f"What is {rng.integers(10, 20)}+12?", "1", "p")

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        n_replies = sum(author.name == "ENVIRONMENT" for author, _ in transcript.segments)
        return f"\n{problem.question}\n" if n_replies < 2 else None


# -- what is asked, and what is handed out ----------------------------------------------------------------------------


def test_every_slot_gets_its_own_text_in_order_however_many_ask_at_once(server: TinyServer) -> None:
    envs = make("response", 6)
    observations, _ = envs.reset(seed=0)
    texts = []
    for n_concurrent in (1, 6):
        with ServerPolicy(server.url, envs, model=MODEL, seed=3, n_concurrent=n_concurrent) as player:
            texts.append(player.act(observations))
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    assert sorted(r["prompt"] for r in server.requests) == sorted(2 * list(observations))
    assert {r["seed"] for r in server.requests} == set(range(3, 9))
    assert {r["max_tokens"] for r in server.requests} == {128}
    _, _, terminated, _, infos = envs.step(texts[0])
    assert terminated.all()
    assert set(infos["stop_reason"]) == {"end_token"}


@pytest.mark.parametrize("unit", ["step", "response"])
@pytest.mark.parametrize("max_new_tokens", [128, 12])
def test_texts_play_as_the_model_plays_token_by_token(server: TinyServer, unit: str, max_new_tokens: int) -> None:
    """Nearly greedy, so that nothing is left to chance; the small budget cuts some responses off."""
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "rewards": {"correctness": 1.0, "format": 0.1}}
    envs = make(unit, **options)
    with ServerPolicy(server.url, envs, model=MODEL, temperature=0) as player:
        played = evaluate_texts(player, envs, n_problems=10, seed=5)
    expected = evaluate(Policy.load(MODEL, temperature=1e-3), make("token", **options), n_problems=10, seed=5)
    assert played.stop_reasons == expected.stop_reasons
    assert len(played.stop_reasons) == (1 if max_new_tokens == 128 else 2)
    assert played.pass_at_1 == expected.pass_at_1
    assert played.mean_length == expected.mean_length
    assert played.mean_return == pytest.approx(expected.mean_return)
    assert [e["prompt"] for e in played.examples] == [e["prompt"] for e in expected.examples]
    assert [e["response"] for e in played.examples] == [e["response"].removesuffix("<eos>") for e in expected.examples]
    if max_new_tokens == 128:
        assert len(server.requests) == 10  # one for a response, whatever its steps


def test_a_step_is_handed_out_at_a_time_and_the_last_one_ends_the_response(server: TinyServer) -> None:
    envs = make("step", 1)
    observations, _ = envs.reset(seed=3, options={"problem": {"question": "What is 85*4?", "answer": "340"}})
    server.answers = [completion("a\nb\nc")]
    with ServerPolicy(server.url, envs, model=MODEL) as player:
        actions, over = [], False
        while not over:
            actions += player.act(observations)
            observations, _, terminated, _, infos = envs.step(actions[-1:])
            over = bool(terminated[0])
    assert actions == ["a\n", "b\n", "c<eos>"]
    assert infos["stop_reason"].tolist() == ["end_token"]
    assert len(server.requests) == 1


def test_the_end_after_a_closed_step_is_an_action_of_its_own(server: TinyServer) -> None:
    envs = make("step", 1)
    observations, _ = envs.reset(seed=0)
    for text, expected in (("a\n", ["a\n", "<eos>"]), ("", ["<eos>"]), ("a<eos>", ["a<eos>"])):
        server.answers = [completion(text)]
        with ServerPolicy(server.url, envs, model=MODEL) as player:
            handed = player.act(observations)
            while not handed[-1].endswith("<eos>"):
                handed += player.act([observations[0] + "".join(handed)])
        assert handed == expected


def test_an_observation_that_was_not_expected_is_answered_anew(server: TinyServer) -> None:
    envs = make("step", 1)
    server.answers = [completion("a\nb\n"), completion("c\n"), completion("d\n")]
    with ServerPolicy(server.url, envs, model=MODEL) as player:
        assert player.act(["q "]) == ["a\n"]
        assert player.act(["q a\n!"]) == ["c\n"]
        assert player.act(["q a\n!"]) == ["d\n"]  # asked twice in one state: sampled twice
    assert [r["prompt"] for r in server.requests] == ["q ", "q a\n!", "q a\n!"]


def test_a_response_that_the_server_cut_off_is_written_to_its_end(server: TinyServer) -> None:
    envs = make("response", 3)
    observations, _ = envs.reset(seed=0)
    with ServerPolicy(server.url, envs, model=MODEL, temperature=0) as player:
        whole = player.act(observations)
    n_whole = len(server.requests)
    with ServerPolicy(server.url, envs, model=MODEL, temperature=0, max_tokens=3) as player:
        assert player.act(observations) == whole
    assert len(server.requests) > 2 * n_whole


def test_no_more_is_asked_for_than_the_budget_of_the_environment(server: TinyServer) -> None:
    envs = make("response", 1, max_new_tokens=4)
    observations, _ = envs.reset(seed=0)
    server.answers = 9 * [completion("1 2 3", reason="length")]
    with ServerPolicy(server.url, envs, model=MODEL) as player:
        _, _, _, truncated, infos = envs.step(player.act(observations))
    assert truncated[0]
    assert infos["stop_reason"].tolist() == ["max_new_tokens"]
    assert len(server.requests) < 5


def test_a_step_that_the_server_cut_off_goes_on_from_there(server: TinyServer) -> None:
    envs = make("step", 1)
    observations, _ = envs.reset(seed=0)
    server.answers = [completion("a\nb", reason="length"), completion("c\n")]
    with ServerPolicy(server.url, envs, model=MODEL) as player:
        for expected in ("a\n", "b", "c\n", "<eos>"):
            actions = player.act(observations)
            assert actions == [expected]
            observations, *_ = envs.step(actions)
    assert [r["prompt"][-3:] for r in server.requests[1:]] == ["a\nb"]


def test_a_slot_that_waits_asks_nothing(server: TinyServer) -> None:
    envs = make("response", 3)
    observations, _ = envs.reset(seed=0)
    with ServerPolicy(server.url, envs, model=MODEL) as player:
        actions = player.act(observations, waiting=np.array([False, True, False]))
    assert actions[1] == llmgym.WAIT
    assert sorted(r["prompt"] for r in server.requests) == sorted([observations[0], observations[2]])


# -- environments that write, chats, ids ------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["step", "response"])
def test_the_server_is_asked_anew_after_the_environment_wrote(server: TinyServer, unit: str) -> None:
    envs = LanguageVectorEnv(PartsTask, 2, action_unit=unit, autoreset_mode="disabled", max_prompt_tokens=64)
    with ServerPolicy(server.url, envs, model=MODEL, temperature=0) as player:
        played = evaluate_texts(player, envs, n_problems=2, n_examples=2)
    assert len(server.requests) == 6
    for example in played.examples:
        prompts = [r["prompt"] for r in server.requests if r["prompt"].startswith(example["prompt"])]
        whole = example["prompt"] + example["response"]
        question = example["prompt"].strip()
        assert prompts[0] == example["prompt"]
        assert all(whole.startswith(prompt) for prompt in prompts)
        assert [prompt.count(question) for prompt in prompts] == [1, 2, 3]


@pytest.mark.parametrize("unit", ["step", "response"])
def test_a_chat_has_the_environment_as_its_user(server: TinyServer, unit: str) -> None:
    envs = LanguageVectorEnv(PartsTask, 1, action_unit=unit, autoreset_mode="disabled", max_prompt_tokens=64)
    server.answers = [chat("one\ntwo"), chat("three"), chat("four")]
    with ServerPolicy(server.url, envs, model=MODEL, chat=True, system_prompt="Be brief.") as player:
        played = evaluate_texts(player, envs, n_problems=1)
    prompt = played.examples[0]["prompt"]
    question = f"\n{prompt.strip()}\n"
    assert [r["path"] for r in server.requests] == 3 * ["/v1/chat/completions"]
    assert [(m["role"], m["content"]) for m in server.requests[2]["messages"]] == [
        ("system", "Be brief."),
        ("user", prompt),
        ("assistant", "one\ntwo"),
        ("user", question),
        ("assistant", "three"),
        ("user", question),
    ]
    assert played.examples[0]["response"] == f"one\ntwo{question}three{question}four"


def test_a_chat_with_the_model_itself(server: TinyServer) -> None:
    """The server's template here changes nothing, so a chat is a completion."""
    observations, _ = (envs := make("response", 2)).reset(seed=0)
    with ServerPolicy(server.url, envs, model=MODEL, temperature=0) as player:
        expected = player.act(observations)
    with ServerPolicy(server.url, envs, model=MODEL, temperature=0, chat=True) as player:
        assert player.act(observations) == expected


@pytest.mark.parametrize("unit", ["step", "response"])
def test_a_chat_that_was_cut_off_cannot_go_on(server: TinyServer, unit: str) -> None:
    observations, _ = (envs := make(unit, 1)).reset(seed=0)
    server.answers = 2 * [chat("one", reason="length")]
    with (
        ServerPolicy(server.url, envs, model=MODEL, chat=True) as player,
        pytest.raises(LLMGymError, match="max_tokens"),
    ):
        player.act([observations[0] + player.act(observations)[0]])


def test_ids_that_are_sent_are_those_of_the_state(server: TinyServer) -> None:
    envs = make("step", 2, prompt_template="r1", max_prompt_tokens=256)
    observations, _ = envs.reset(seed=0)
    server.answers = 2 * [completion("12+3=15\n1", reason="length")]
    with ServerPolicy(server.url, envs, model=MODEL, temperature=0, send_ids=True, n_concurrent=1) as player:
        for _ in range(3):
            lengths = envs.process.length.tolist()
            state = [envs.process.ids[slot, : lengths[slot]].tolist() for slot in range(2)]
            observations, *_ = envs.step(player.act(observations))
    assert len(server.requests) == 4
    assert [r["prompt"] for r in server.requests[2:]] == state


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_environments_of_gymnasium_are_played_too(server: TinyServer, kind: Any) -> None:
    options = {"shared_memory": False} if kind is AsyncVectorEnv else {}
    envs = kind([lambda: gym.make(ENV, action_unit="response") for _ in range(2)], **options)
    try:
        observations, _ = envs.reset(seed=0)
        with ServerPolicy(server.url, envs, model=MODEL, temperature=0) as player:
            _, _, terminated, _, _ = envs.step(tuple(player.act(observations)))
        assert terminated.all()
    finally:
        envs.close()


def test_a_single_environment_is_a_slot(server: TinyServer) -> None:
    env = gym.make(ENV, action_unit="response")
    observation, _ = env.reset(seed=0)
    with ServerPolicy(server.url, env, model=MODEL, temperature=0) as player:
        _, _, terminated, _, _ = env.step(player.act([observation])[0])
    assert terminated


# -- what goes wrong --------------------------------------------------------------------------------------------------


def completion(text: str, reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "logprobs": None, "text": text}
    return {"id": "1", "object": "text_completion", "created": 0, "model": MODEL, "choices": [choice]}


def chat(text: str | None, reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": reason, "logprobs": None, "message": message}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}


def act(server: TinyServer, url: str | None = None, **options: Any) -> list[Any]:
    envs = make("response", 2)
    observations, _ = envs.reset(seed=0)
    with ServerPolicy(url or server.url, envs, **({"model": MODEL, "max_retries": 0} | options)) as player:
        texts: list[Any] = player.act(observations)
    return texts


def test_a_server_that_fails_for_a_moment_is_asked_again(server: TinyServer) -> None:
    server.answers = [503]
    assert len(act(server, max_retries=1, n_concurrent=1)) == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answers", "options", "error", "message"),
    [
        ([500, 500], {}, LLMGymError, "status 500, .*told to say 500"),
        ([422, 422], {}, InvalidOptionError, "status 422"),
        ([], {"model": "none such"}, InvalidOptionError, "status 404, .*there is no model none such"),
        (2 * [completion("", "length")], {}, LLMGymError, "actual: '', ended by 'length'"),
        (2 * [completion("a", "content_filter")], {}, LLMGymError, "ended by 'content_filter'"),
        (2 * [completion("") | {"choices": []}], {}, LLMGymError, "actual: None, ended by None"),
        (2 * [chat(None)], {"chat": True}, LLMGymError, "actual: None, ended by 'stop'"),
    ],
)
def test_what_a_server_refuses_is_told(
    server: TinyServer, answers: list[Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    server.answers = answers
    with pytest.raises(error, match=message):
        act(server, **options)


def test_a_server_that_is_not_there_is_told() -> None:
    with TinyServer() as closed:
        url = closed.url
    with pytest.raises(InvalidOptionError, match=f"Expected a server at {url}, actual: .*refused"):
        act(closed, url)


def test_a_server_that_is_too_slow_is_told(server: TinyServer) -> None:
    server.delay = 1.0
    with pytest.raises(LLMGymError, match=r"within 0\.05 s, actual: none in 1 attempts"):
        act(server, timeout=0.05)


def test_the_key_comes_from_the_environment_and_is_told_to_nobody(
    server: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "sk-secret-1"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    assert len(act(server)) == 2
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-2")
    with pytest.raises(InvalidOptionError, match="OPENAI_API_KEY, actual: the one that is set") as refused:
        act(server)
    assert "secret" not in str(refused.value)
    assert refused.value.__suppress_context__
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InvalidOptionError, match="actual: none is set"):
        act(server)


@pytest.mark.parametrize(
    ("unit", "options", "message"),
    [
        ("token", {}, 'action_unit="token"'),
        ("step", {"temperature": -1.0}, "temperature"),
        ("step", {"max_tokens": 0}, "max_tokens"),
        ("step", {"n_concurrent": 0}, "n_concurrent"),
        ("step", {"system_prompt": "x"}, "system_prompt"),
        ("step", {"send_ids": True, "chat": True}, "send_ids"),
    ],
)
def test_options_that_cannot_work_are_refused(unit: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        ServerPolicy("http://localhost:1/v1", make(unit), model=MODEL, **options)


def test_two_chat_templates_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match='prompt_template="chat"'):
        ServerPolicy("http://localhost:1/v1", make("step", prompt_template="chat"), model=MODEL, chat=True)


def test_other_environments_are_refused() -> None:
    with pytest.raises(WrongEnvironmentError, match="CartPole"):
        ServerPolicy("http://localhost:1/v1", gym.make("CartPole-v1"), model=MODEL)
