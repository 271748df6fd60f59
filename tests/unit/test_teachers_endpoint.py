"""The endpoint's client against a real HTTP server on the loopback interface."""

from __future__ import annotations

import time

import pytest

from tests.chat_server import Server
from tests.tiny_models import save_llama
from toolkit.data.manifest import Row
from toolkit.evaluation import EndpointJudge
from toolkit.llms import CausalLM, Prompt
from toolkit.teachers import BehaviourTeacher, Endpoint, EndpointError, InstructionPool
from toolkit.teachers.answers import AnswerStore


@pytest.fixture
def server():
    started = Server()
    yield started
    started.close()


def client(server, **settings):
    return Endpoint(server.url, **{"backoff": 0.01, "concurrency": 3, "timeout": 10.0, **settings})


def bodies(endpoint, texts):
    return [endpoint.request([{"role": "user", "content": text}], 8) for text in texts]


def test_answers_come_in_order_and_only_so_many_at_a_time(server, tmp_path):
    server.delay = 0.03
    endpoint = client(server)
    texts = [f"text {i}" for i in range(12)]
    counted = []
    found = endpoint.replies(
        bodies(endpoint, texts), AnswerStore(tmp_path / "a.jsonl"), counted.append
    )
    assert [reply.text for reply in found] == [text.upper() for text in texts]
    assert server.most == 3 and sum(counted) == 12
    assert all(r["temperature"] == 0 and r["model"] == "tiny" for r in server.requests)


def test_transient_faults_are_tried_again(server, tmp_path):
    server.faults = [(500, ()), (429, [("Retry-After", "1")]), ("cut",)]
    endpoint = client(server, concurrency=1)
    started = time.monotonic()
    (reply,) = endpoint.replies(bodies(endpoint, ["hello"]), AnswerStore(tmp_path / "a.jsonl"))
    assert reply.text == "HELLO" and len(server.requests) == 4
    assert time.monotonic() - started >= 1.0  # the server's own pause was kept


def test_pauses_grow_up_to_a_limit():
    endpoint = Endpoint("http://x", model="m", backoff=1.0, max_backoff=5.0)
    for attempt, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (9, 5.0)):
        assert longest / 2 <= endpoint.pause(attempt, None) <= longest
    assert endpoint.pause(1, "3") == 3.0 and endpoint.pause(1, "900") == 5.0


def test_it_gives_up_and_says_why(server, tmp_path):
    server.faults = [(503, ())] * 9
    endpoint = client(server, attempts=2)
    with pytest.raises(EndpointError, match="gave up after 2 attempts, status 503.*busy"):
        endpoint.replies(bodies(endpoint, ["a"]), AnswerStore(tmp_path / "a.jsonl"))
    server.close()
    with pytest.raises(EndpointError, match="URLError|Connection"):
        client(server, attempts=1, model="m").reply({"messages": []})


def test_a_refusal_is_final_and_what_came_is_kept(server, tmp_path):
    server.refused = {"bad"}
    endpoint = client(server, concurrency=1)
    path = tmp_path / "a.jsonl"
    asked = bodies(endpoint, ["one", "two", "bad", "three"])
    with pytest.raises(EndpointError, match="refused, status 400.*no such thing"):
        endpoint.replies(asked, AnswerStore(path))
    assert len(server.requests) == 3  # no second attempt, and nothing behind it
    # The run goes on where it was, also after a kill in the middle of a line.
    with path.open("a") as handle:
        handle.write('{"key": "half')
    server.refused = set()
    found = endpoint.replies(asked, AnswerStore(path))
    assert [reply.text for reply in found] == ["ONE", "TWO", "BAD", "THREE"]
    assert len(server.requests) == 5


def test_key_comes_from_the_environment_and_model_from_the_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    endpoint = client(server, key_variable="SOME_KEY")
    endpoint.replies(bodies(endpoint, ["x"]), AnswerStore(tmp_path / "a.jsonl"))
    assert server.keys == ["Bearer secret"]
    assert "secret" not in (tmp_path / "a.jsonl").read_text()
    server.models = ["one", "two"]
    with pytest.raises(EndpointError, match="one, two"):
        _ = client(server).model
    with pytest.raises(ValueError, match="http://localhost"):
        Endpoint("localhost:8000")


def test_something_else_than_a_completion_is_named(server, monkeypatch):
    endpoint = client(server)
    monkeypatch.setattr(endpoint, "_send", lambda *a: {"detail": "hello"})
    with pytest.raises(EndpointError, match="something else.*hello"):
        endpoint.reply({})


def test_teacher_behind_an_endpoint(server, tmp_path):
    llm, prompt = CausalLM(str(save_llama(tmp_path / "llm"))), Prompt()
    pool = InstructionPool(only=["title", "continuation"])
    teacher = BehaviourTeacher(["m"], pool, per_utterance=2, endpoint=client(server))
    rows = [Row(f"u{i}", "/a.wav", 1.0, f"press {i}", "en", "s") for i in range(3)]
    items = teacher.plan(rows)
    store = AnswerStore(tmp_path / "answers.jsonl")
    found = teacher.write(items, llm, prompt, store)
    assert not llm.materialised and len(found) == 6
    for item, answer in zip(items, found, strict=True):
        assert answer["response"] == f"{item.instruction}\n{item.row.text}".upper()
        assert answer["source"] == "endpoint:tiny"
        ids = llm.tokenizer(answer["response"], add_special_tokens=False)["input_ids"]
        assert answer["response_ids"] == [*ids, *prompt.end_ids(llm.tokenizer)]
    teacher.write(items, llm, prompt, store)
    assert len(server.requests) == 6  # nothing is asked twice
    teacher.stop_strings = ("\n\n",)
    teacher.write(items[:1], llm, prompt, store)
    assert server.requests[-1]["stop"] == ["\n\n"] and "stop" not in server.requests[0]


def test_judge_behind_an_endpoint(server, tmp_path):
    # "Yes" and " yes" count together, whatever else is likely.
    server.logprobs = {
        "answer: right": {"Yes": -1.0, " yes": -1.0, "No": -2.0, "Well": -0.1},
        "answer: wrong": {"No": -0.1, "Yes": -3.0},
    }
    rows = [
        {"question": "Which?", "reference": "r", "answer": answer}
        for answer in ("right", "wrong", "unclear")
    ]
    endpoint = client(server)
    judge = EndpointJudge(endpoint, str(tmp_path / "judge.jsonl"), value="probability")
    right, wrong, unclear = judge.probabilities(rows)
    import math

    assert right == pytest.approx(2 * math.exp(-1) / (2 * math.exp(-1) + math.exp(-2)))
    assert wrong == pytest.approx(math.exp(-3) / (math.exp(-3) + math.exp(-0.1)))
    assert unclear == 0.0  # no log-probabilities, and its text is neither
    assert EndpointJudge(endpoint, str(tmp_path / "judge.jsonl")).corpus(rows) == pytest.approx(
        1 / 3
    )
    assert len(server.requests) == 3
