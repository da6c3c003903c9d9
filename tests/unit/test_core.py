"""What the environments refuse, and what their options do."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import llmgym
from llmgym import (
    WAIT,
    InvalidActionError,
    InvalidOptionError,
    LanguageEnv,
    LanguageVectorEnv,
    LLMGymError,
    MissingExtraError,
    Problem,
    PromptTooLongError,
    StopReason,
)
from llmgym.errors import missing_extra
from llmgym.testing import SumTask, ToolTask, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
OPTIONS: dict[str, Any] = {"tokenizer": TOKENIZER, "max_prompt_tokens": 12, "max_new_tokens": 6}
V = TOKENIZER.vocab_size


def single(**options: Any) -> LanguageEnv:
    env = LanguageEnv(SumTask(), **(OPTIONS | options))
    env.reset(seed=0)
    return env


def vector(num_envs: int = 4, **options: Any) -> LanguageVectorEnv:
    envs = LanguageVectorEnv(SumTask(), num_envs, **(OPTIONS | options))
    envs.reset(seed=0)
    return envs


# ------------------------------------------------------------------------------------------------ wrong actions


@pytest.mark.parametrize("action", [-1, V, 10**12, np.int64(-5)])
def test_a_wrong_token_id_names_value_bound_and_mend(action: Any) -> None:
    env = single()
    with pytest.raises(InvalidActionError, match=rf"Expected an action in \[0, {V}\).*actual: {action}.*tokenizer"):
        env.step(action)
    assert env.process.length[0] == 6  # nothing was written


@pytest.mark.parametrize("action", ["1", 1.0, None, np.array([1, 2])])
def test_what_is_no_token_id_is_refused(action: Any) -> None:
    with pytest.raises(InvalidActionError, match=r"Expected an action to be an int in .*Pass the id of a token"):
        single().step(action)


@pytest.mark.parametrize("action", [3, np.int32(3), np.int64(3), np.array(3)])
def test_integers_of_all_kinds_are_token_ids(action: Any) -> None:
    assert single().step(action)[0]["input_ids"][6] == 3


@pytest.mark.parametrize(("action", "complaint"), [(3, "to be a str"), (b"x", "to be a str"), ("\ud800", "surrogate")])
def test_what_is_no_text_is_refused(action: Any, complaint: str) -> None:
    with pytest.raises(InvalidActionError, match=complaint):
        single(action_unit="step").step(action)
    with pytest.raises(InvalidActionError, match=complaint):
        vector(2, action_unit="step").step(("fine", action))


@pytest.mark.parametrize(("unit", "action"), [("token", TOKENIZER.end_token_id), ("response", "5")])
def test_a_step_after_the_end_is_refused(unit: str, action: Any) -> None:
    env = single(action_unit=unit)
    assert env.step(action)[2]
    with pytest.raises(
        InvalidActionError, match=r"after the end of an episode, actual: step\(\) after 'end_token'.*reset"
    ):
        env.step(action)
    env.reset()
    env.step(action)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(InvalidActionError, match=r"before the first step\(\)"):
        LanguageEnv(SumTask(), **OPTIONS).step(3)
    envs = LanguageVectorEnv(SumTask(), 2, **OPTIONS)
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(InvalidActionError, match=r"before the first step\(\)"):
        envs.step([3, 3])


@pytest.mark.parametrize("actions", [[3, V, 3, 3], [3, -1, 3, 3], np.array([3, 2**40, 3, 3])])
def test_a_wrong_token_id_in_a_batch_names_its_slot(actions: Any) -> None:
    envs = vector()
    with pytest.raises(InvalidActionError, match=rf"in \[0, {V}\).*actual: {actions[1]} in slot 1"):
        envs.step(actions)
    assert envs.process.length.tolist() == [6] * 4


@pytest.mark.parametrize("actions", [3, [3, 3], [1.0] * 4, np.zeros((4, 1), int)])
def test_a_batch_of_the_wrong_form_is_refused(actions: Any) -> None:
    with pytest.raises(InvalidActionError, match=r"int array of shape \(4,\)"):
        vector().step(actions)


@pytest.mark.parametrize("actions", ["abcd", ("a", "b")])
def test_a_batch_of_texts_of_the_wrong_form_is_refused(actions: Any) -> None:
    with pytest.raises(InvalidActionError, match="sequence of 4 texts"):
        vector(action_unit="step").step(actions)


# ------------------------------------------------------------------------------------------------ prompts


def test_an_over_long_prompt_names_its_length_and_the_bound() -> None:
    long = {"question": "x" * 30, "answer": "1", "problem_id": "long one"}
    expected = r"1 to 12 tokens \(`max_prompt_tokens`\), actual: 31.*'long one'.*max_prompt_tokens=31"
    for env in (single(), vector()):
        with pytest.raises(PromptTooLongError, match=expected):
            env.reset(options={"problem": long})
    env = single(max_prompt_tokens=31)
    assert env.reset(options={"problem": long})[0]["attention_mask"].sum() == 31


def test_prompt_templates(tmp_path: Any) -> None:
    problem = {"problem": Problem("2+3", "5", "p")}
    for template, expected in (("plain", "2+3\n"), ("Q: {question} {x} {{}}", "Q: 2+3 {x} {{}}")):
        env = single(prompt_template=template, max_prompt_tokens=40)
        env.reset(options=problem)
        assert env.transcript.prompt == expected
    env = single(prompt_template="r1", max_prompt_tokens=400)
    env.reset(options=problem)
    assert all(tag in env.transcript.prompt for tag in ("<think>", "</think>", "<answer>", "</answer>", "2+3"))
    with pytest.raises(
        InvalidOptionError, match=r"`prompt_template` among chat, plain, r1, or a text with \{question\}"
    ):
        single(prompt_template="pln")
    with pytest.raises(InvalidOptionError, match="`system_prompt` only with"):
        single(system_prompt="Be brief.")
    with pytest.raises(InvalidOptionError, match="chat template"):
        single(prompt_template="chat")


def test_the_chat_template_is_the_tokenizers() -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    tokenizer = llmgym.Tokenizer.from_json(TOKENIZER._json, eos_token="<eos>", chat_template=template)
    env = single(tokenizer=tokenizer, prompt_template="chat", system_prompt="Hi", max_prompt_tokens=60)
    env.reset(options={"problem": Problem("2+3", "5", "p")})
    assert env.transcript.prompt == "[system]Hi[user]2+3>"


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"max_new_token": 3},
            r"a keyword argument among: action_unit.*'max_new_token'. Did you mean 'max_new_tokens'",
        ),
        ({"action_unit": "word"}, "`action_unit` among: response, step, token; actual: 'word'"),
        ({"reveal_reference_answer": "no"}, "`reveal_reference_answer` to be True or False, actual: 'no'"),
        ({"stop_strings": 3}, "`stop_strings` to be a list of texts, actual: 3"),
        ({"max_new_tokens": 0}, "`max_new_tokens` to be an int >= 1, actual: 0"),
        ({"max_steps": 1.5}, "`max_steps` to be an int >= 1, actual: 1.5"),
        ({"max_prompt_tokens": True}, "`max_prompt_tokens` to be an int"),
        ({"stop_strings": "ab"}, r"`stop_strings` to be a list of texts.*Write \['ab'\]"),
        ({"stop_strings": [""]}, "`stop_strings` to hold no empty text"),
        ({"step_delimiter": ""}, "`step_delimiter` to hold no empty text"),
        ({"rewards": {"corectness": 1.0}}, "a reward among: .*'corectness'. Did you mean 'correctness'"),
        ({"rewards": {"correctness": float("nan")}}, "finite number"),
        ({"render_mode": "rgb"}, "`render_mode` among: ansi, human, rgb_array; actual: 'rgb'"),
        ({"tokenizer": "/nowhere"}, "`tokenizer`"),
    ],
)
def test_wrong_keywords_are_refused_by_both(options: dict[str, Any], complaint: str) -> None:
    for make in (single, vector):
        with pytest.raises(InvalidOptionError, match=complaint):
            make(**options)


def test_wrong_keywords_are_refused_through_gymnasium() -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(InvalidOptionError, match="Did you mean 'rewards'"):
            make("llmgym/Copy-v0", reward={"copied": 1.0})
        with pytest.raises(InvalidOptionError, match="Did you mean 'level'"):  # the environment's own, too
            make("llmgym/MathReason-v0", levels=3)


def test_nothing_can_be_read_before_the_first_reset() -> None:
    for read in ("transcript", "last_transition"):
        with pytest.raises(InvalidActionError, match=r"Expected reset\(\) first"):
            getattr(LanguageEnv(SumTask(), **OPTIONS), read)
    with pytest.raises(InvalidActionError, match=r"Expected reset\(\) first"):
        LanguageEnv(SumTask(), **OPTIONS).clone_state()


def test_a_failed_automatic_reset_leaves_no_slot_that_seems_to_go_on() -> None:
    envs = LanguageVectorEnv(SumTask(), 4, **(OPTIONS | {"max_prompt_tokens": 2}))
    short = Problem("1", "1", "p")
    envs.reset(options={"problem": short})
    end = np.full(4, TOKENIZER.end_token_id)
    envs.step(end)
    with pytest.raises(PromptTooLongError):
        envs.step(end)  # the task's own problems are longer
    with pytest.raises(InvalidActionError, match=r"reset\(\)"):
        envs.step(end)
    envs.reset(options={"problem": short})
    envs.step(end)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"reset_mask": np.ones(1, bool)}, "no 'reset_mask' in the reset options of a single environment.*make_vec"),
        ({"group_size": 2}, "no 'group_size' in the reset options of a single environment"),
        (
            {"problme": None},
            "a reset option among: group_size, problem, reset_mask; actual: 'problme'. Did you mean 'problem'",
        ),
        ({"problem": 3}, "a Problem or a dict"),
        ({"problem": {"question": "a"}}, '"question" and an "answer"'),
    ],
)
def test_wrong_reset_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOptionError, match=complaint):
        single().reset(options=options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"reset_mask": [True] * 4}, r"bool array of shape \(4,\)"),
        ({"reset_mask": np.zeros(4, bool)}, "at least one True"),
        ({"reset_mask": np.ones(3, bool)}, r"bool array of shape \(4,\)"),
        ({"reset_mask": np.ones(4, int)}, r"bool array of shape \(4,\)"),
        ({"group_size": 3}, "divides num_envs=4, actual: 3"),
        ({"group_size": True}, "divides num_envs=4"),
        ({"group_size": 2, "reset_mask": np.array([True, False, True, True])}, r"whole groups of 2.*\[0\]"),
        ({"mask": 1}, "a reset option among"),
        ({"problem": [None]}, "a list of 4, actual: a list of 1"),
    ],
)
def test_wrong_reset_options_of_the_vector_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOptionError, match=complaint):
        vector().reset(options=options)


def test_other_wrong_arguments_of_the_vector() -> None:
    with pytest.raises(InvalidOptionError, match="`num_envs` >= 1, actual: 0"):
        vector(0)
    with pytest.raises(InvalidOptionError, match="`autoreset_mode` among: disabled, next_step, same_step"):
        vector(autoreset_mode="never")
    with pytest.raises(InvalidOptionError, match="a list of 4 of them, actual: 2"):
        vector().reset(seed=[1, 2])
    with pytest.raises(TypeError, match="method `sample"):
        LanguageEnv(object(), **OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["NextStep", "next_step", gym.vector.AutoresetMode.NEXT_STEP])
def test_the_autoreset_mode_is_a_plain_value_too(mode: Any) -> None:
    assert vector(autoreset_mode=mode).metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_without_copies_the_observations_are_the_environments_own(mode: str) -> None:
    copied, shared = (vector(autoreset_mode=mode, max_new_tokens=5, copy=copy) for copy in (True, False))
    kept, before = copied.reset(seed=1)[0], shared.reset(seed=1)[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        over = shared.process.stop_reason > 0
        waits = over if mode == "disabled" else np.zeros_like(over)
        actions = np.where(waits, llmgym.WAIT, rng.integers(V, size=4))
        expected, here = copied.step(actions), shared.step(actions)
        assert repr(expected) == repr(here)
        for key, array in here[0].items():
            assert np.shares_memory(array, before[key])
            assert not np.shares_memory(expected[0][key], kept[key])
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        # What an observation held of a slot is still there, unless the step has reset the slot.
        goes_on = ~(expected[2] | expected[3]) if mode == "same_step" else ~over
        lengths = kept["attention_mask"].sum(axis=1)
        for slot in np.flatnonzero(goes_on).tolist():
            assert (
                here[0]["input_ids"][slot, : lengths[slot]].tolist()
                == kept["input_ids"][slot, : lengths[slot]].tolist()
            )
        kept, before = expected[0], here[0]


def test_without_copies_texts_are_as_they_were() -> None:
    assert vector(action_unit="step", copy=False).reset(seed=1)[0] == vector(action_unit="step").reset(seed=1)[0]
    with pytest.raises(InvalidOptionError, match="Expected `copy` to be True or False, actual: 'no'"):
        vector(copy="no")


def test_posing_a_problem() -> None:
    envs = vector()
    problems = [{"question": f"{i}?", "answer": str(i)} for i in range(3)] + [None]
    _, infos = envs.reset(seed=0, options={"problem": problems})
    assert [transcript.prompt for transcript in envs.transcripts([0, 2])] == ["0?\n", "2?\n"]
    assert infos["problem_id"][3].startswith("sum:")
    assert [transcript.problem.question for transcript in envs.transcripts()][:3] == ["0?", "1?", "2?"]


def test_the_reference_answer_is_told_only_when_asked() -> None:
    assert "reference_answer" not in single().reset(seed=0)[1]
    env = single(reveal_reference_answer=True)
    assert env.reset(seed=0)[1]["reference_answer"] == env.transcript.problem.reference_answer


# ------------------------------------------------------------------------------------------------ groups, waiting


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_group_plays_the_same_problems_through_autoresets(mode: str) -> None:
    envs = LanguageVectorEnv(SumTask(limit=1000), 8, autoreset_mode=mode, **(OPTIONS | {"max_prompt_tokens": 20}))
    envs.reset(seed=0, options={"group_size": 4})
    played: list[list[str]] = [[transcript.problem.problem_id] for transcript in envs.transcripts()]
    rng = np.random.default_rng(0)
    for _ in range(40):
        *_, infos = envs.step(rng.choice([1, 7, 8, 9], size=8))
        for slot in np.flatnonzero(infos.get("_problem_id", np.zeros(8, bool))):
            played[slot].append(infos["problem_id"][slot])
    for block in (played[:4], played[4:]):
        shortest = min(map(len, block))
        assert shortest >= 4
        assert all(problems[:shortest] == block[0][:shortest] for problems in block)
    assert played[0][0] != played[4][0]
    alone = LanguageEnv(SumTask(limit=1000), **(OPTIONS | {"max_prompt_tokens": 20}))
    assert alone.reset(seed=4)[1]["problem_id"] == played[4][0]


def test_a_group_can_be_reset_by_itself() -> None:
    envs = vector(4, autoreset_mode="disabled")
    envs.reset(seed=0, options={"group_size": 2})
    before = [transcript.problem.problem_id for transcript in envs.transcripts()]
    mask = np.array([False, False, True, True])
    envs.reset(options={"group_size": 2, "reset_mask": mask})
    after = [transcript.problem.problem_id for transcript in envs.transcripts()]
    assert after[:2] == before[:2]
    assert after[2] == after[3]


def test_the_slots_of_a_group_have_equal_generators_of_their_own() -> None:
    for seeded_before in (False, True):
        envs = vector(autoreset_mode="disabled")
        if seeded_before:
            envs.reset(seed=7)
        envs.reset(seed=[5, 6, 8, 9], options={"group_size": 2})
        states = [rng.bit_generator.state for rng in envs.np_random]
        assert states[0] == states[1] != states[2] == states[3]
        assert envs.np_random_seed == (5, 5, 8, 8)
        alone = vector(autoreset_mode="disabled", num_envs=1)
        alone.reset(seed=5)
        assert alone.np_random[0].bit_generator.state == states[0]
        envs.np_random[1].random()
        assert envs.np_random[0].bit_generator.state == states[0] != envs.np_random[1].bit_generator.state


def test_a_finished_slot_waits_when_nothing_resets_it() -> None:
    envs = vector(3, autoreset_mode="disabled", rewards={"format": 1.0, "length": 1.0})
    envs.step([1, 7, 7])
    with pytest.raises(
        InvalidActionError, match=r"action -1 \(llmgym.WAIT\) in slot 0.*'end_token', actual: 7.*reset_mask"
    ):
        envs.step([7, 7, 7])
    with pytest.raises(InvalidActionError, match=r"-1 in slot 1\. Its episode goes on"):
        envs.step([WAIT, WAIT, 7])
    before = envs.step([WAIT, 7, 1])
    assert before[2].tolist() == [True, False, True]
    observations, rewards, terminated, truncated, infos = envs.step([WAIT, 7, WAIT])
    assert np.array_equal(observations["input_ids"][[0, 2]], before[0]["input_ids"][[0, 2]])
    assert rewards[[0, 2]].tolist() == [0.0, 0.0]
    assert terminated.tolist() == [True, False, True]
    assert infos["_reward_components"].tolist() == [False, True, False]
    assert envs.transitions == []
    for _ in range(3):
        *_, truncated, infos = envs.step([WAIT, 7, WAIT])
    assert truncated.tolist() == [False, True, False]
    assert infos["stop_reason"].tolist() == [None, "max_new_tokens", None]
    envs.step([WAIT] * 3)
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    *_, terminated, truncated, _ = envs.step([7, WAIT, WAIT])
    assert (terminated | truncated).tolist() == [False, True, True]


def test_a_text_slot_waits_too() -> None:
    envs = vector(2, autoreset_mode="disabled", action_unit="response")
    envs.step(("1", "2"))
    with pytest.raises(InvalidActionError, match="slot 0"):
        envs.step(("1", WAIT))
    *_, terminated, _, _ = envs.step((WAIT, WAIT))
    assert terminated.all()


def test_a_function_makes_a_task_for_each_slot() -> None:
    envs = LanguageVectorEnv(ToolTask, 3, **OPTIONS)
    assert len({id(task) for task in envs.tasks}) == 3
    assert len({id(task) for task in vector(3).tasks}) == 1


# ------------------------------------------------------------------------------------------------ states, errors


def test_states_move_between_single_and_vector_environments() -> None:
    env, envs = single(), vector(3)
    for token in (7, 8):
        env.step(token)
    state = env.clone_state()
    envs.restore_state([state, state], [0, 2])
    assert envs.clone_state([0, 2]) == (state, state)
    assert envs.transcripts([2])[0] == env.transcript
    mine, theirs = env.step(9), envs.step([9, 7, 9])
    assert np.array_equal(theirs[0]["input_ids"][2], mine[0]["input_ids"])
    other = single()
    other.restore_state(envs.clone_state([0])[0])
    assert other.transcript == env.transcript
    with pytest.raises(InvalidOptionError, match="one state for each of 3 slots, actual: 1"):
        envs.restore_state([state])
    with pytest.raises(InvalidOptionError, match=r"same rules.*max_new_tokens=6.*max_new_tokens=7.*same keyword"):
        single().restore_state(single(max_new_tokens=7).clone_state())


def test_a_restored_end_is_an_end() -> None:
    env = single()
    running = env.clone_state()
    env.step(TOKENIZER.end_token_id)
    ended = env.clone_state()
    assert ended.stop_reason is StopReason.END_TOKEN
    env.restore_state(running)
    env.step(7)
    env.restore_state(ended)
    with pytest.raises(InvalidActionError, match="after the end"):
        env.step(7)
    envs = vector(2)
    envs.restore_state([ended, running])
    assert "problem_id" in envs.step([7, 7])[4]  # slot 0 is reset, as after any other end


def test_a_vector_environment_can_be_pickled() -> None:
    envs = vector(3)
    envs.step([7, 1, 8])
    copy = pickle.loads(pickle.dumps(envs))
    for _ in range(10):
        here, there = envs.step([7, 8, 9]), copy.step([7, 8, 9])
        assert np.array_equal(here[0]["input_ids"], there[0]["input_ids"])
    assert envs.clone_state() == copy.clone_state()


def test_errors_can_be_pickled_and_caught_by_their_base() -> None:
    for error in (InvalidActionError("a"), MissingExtraError("b"), missing_extra("torch", "agents")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert isinstance(copy, LLMGymError)
    assert isinstance(missing_extra("x", "agents"), ImportError)
