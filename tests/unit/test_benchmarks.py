"""Runners on fixtures in the public formats, judges, and embedded sets."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.decoded_items import PLAN, decoded, wav
from tests.public_benchmarks import write_air, write_ifeval, write_superb
from toolkit.data.rows import Row
from toolkit.evaluation import DecodePlan, ScorePlan
from toolkit.evaluation.benchmarks import (
    BenchmarkError,
    Chat,
    Classification,
    InstructionFollowing,
    LocalJudge,
    ServedJudge,
    write_embedded,
)
from toolkit.evaluation.benchmarks.classification import consecutive_words, single_label
from toolkit.evaluation.benchmarks.items import rows_of
from toolkit.evaluation.benchmarks.judge import JudgeError, two_scores, yes_or_no
from toolkit.teachers import Endpoint, EndpointError

# -- Dynamic-SUPERB's format ------------------------------------------------------------------


@pytest.fixture
def superb(tmp_path):
    return write_superb(tmp_path)


def test_label_rules():
    assert consecutive_words("The emotion is HAPPY!", "happy")
    assert not consecutive_words("unhappy", "happy")
    assert consecutive_words("it is very, very high", "very high")
    assert not consecutive_words("very much high", "very high")
    options = ["happy", "sad", "angry"]
    assert not single_label("happy, sad, or angry", "happy", options)
    assert single_label("Happy, I'd say: happy.", "happy", options)
    assert not single_label("It is high.", "very high", ["high", "very high"])
    assert not single_label("", "happy", options)


def test_classification_by_hand(superb):
    benchmark = Classification(str(superb))
    items = benchmark.items()
    assert [item.group for item in items] == ["EmotionRecognition_Made"] * 4 + ["SpokenTerm_Made"]
    assert items[4].instruction == "Is it said?\nriver"
    rows = rows_of(items, {})
    assert len({row.id for row in rows.values()}) == 5 and rows[items[0].audio].duration == 0.5
    answers = decoded(
        items, text=lambda i: i.label, speech="happy or sad", blank="It is happy."
    )  # fmt: skip
    scores = benchmark.score(items, answers, PLAN)
    task = scores["tasks"]["EmotionRecognition_Made"]
    assert task["majority"] == {"label": "happy", "value": 0.5}
    assert task["authors"]["speech"]["value"] == pytest.approx(0.75)  # lists are forgiven
    assert task["strict"]["speech"]["value"] == 0.0
    assert task["strict"]["blank"]["value"] == 0.5 and task["strict"]["text"]["value"] == 1.0
    assert task["strict_speech_minus"]["blank"]["difference"] == pytest.approx(-0.5)
    assert scores["summary"]["EmotionRecognition"] == task["strict"]
    assert scores["summary"]["mean, authors' rule"] == scores["authors"]
    # The mean of tasks weighs them alike, whatever their size.
    assert scores["authors"]["speech"]["value"] == pytest.approx(0.75 / 2)
    assert scores["majority"] == pytest.approx(0.75)
    table = benchmark.table(scores)
    assert "| EmotionRecognition_Made | 4 | 0.50 |" in table and "-0.50 (p" in table
    json.dumps(scores)


def test_options_are_the_files_whatever_the_limit(superb):
    benchmark = Classification(str(superb), tasks=["EmotionRecognition_Made"], limit=1)
    (item,) = benchmark.items()
    scores = benchmark.score(
        [item], decoded([item], text="happy", speech="happy or sad", blank="angry"), PLAN
    )
    task = scores["tasks"]["EmotionRecognition_Made"]
    assert task["n"] == 1 and task["options"] == ["angry", "happy", "sad"]
    # Among the asked items' labels alone, "sad" would be no other option.
    assert item.label == "happy" and task["strict"]["speech"]["value"] == 0.0
    assert task["strict"]["text"]["value"] == 1.0


def test_classification_limits_and_bad_files(superb):
    assert len(Classification(str(superb), limit=2).items()) == 3
    with pytest.raises(BenchmarkError, match="NoTask"):
        Classification(str(superb), tasks=["NoTask"]).items()
    # Inputs of other projectors, and what is none at all.
    for kind in ("untrained", "pretrained", "silence"):
        with pytest.raises(ValueError, match=rf"unknown \['{kind}'\]"):
            Classification(str(superb), inputs=["speech", kind])
    file = superb / "SpokenTerm_Made" / "test" / "metadata.json"
    file.write_text('{"a.wav": {"instruction": "x", "label": "y", "file2": "b.wav"}}')
    with pytest.raises(BenchmarkError, match="two files"):
        Classification(str(superb)).items()
    file.write_text('{"a.wav": {"instruction": "x"}}')
    with pytest.raises(BenchmarkError, match="a.wav: field 'label'"):
        Classification(str(superb)).items()


def test_a_task_on_the_same_clips_narrows_no_interval(superb):
    """The mean of tasks resamples clips: asking each twice is no more evidence."""
    file = superb / "EmotionRecognition_Made" / "test" / "metadata.json"
    again = superb / "Again_Made" / "test"
    again.mkdir(parents=True)
    entries = json.loads(file.read_text())
    moved = {f"../../EmotionRecognition_Made/test/{name}": e for name, e in entries.items()}
    (again / "metadata.json").write_text(json.dumps(moved))

    def mean(*tasks):
        benchmark = Classification(str(superb), tasks=tasks)
        items = benchmark.items()
        return benchmark.score(items, decoded(items, text="x", speech="happy"), PLAN)["strict"]

    once = mean("EmotionRecognition_Made")
    twice = mean("EmotionRecognition_Made", "Again_Made")
    assert twice["speech"] == pytest.approx(once["speech"]) and once["speech"]["value"] == 0.5


def test_questions_of_one_task_on_the_same_clips_narrow_no_interval(superb):
    """Nor do they make a test surer, or what answers share with the text LLM's."""
    file = superb / "EmotionRecognition_Made" / "test" / "metadata.json"
    entries = json.loads(file.read_text())

    def scored():
        items = Classification(str(superb), tasks=["EmotionRecognition_Made"]).items()
        answers = decoded(items, text=lambda i: i.label, speech="happy", blank="sad")
        scores = Classification(str(superb)).score(items, answers, PLAN)
        (task,) = scores["tasks"].values()
        return scores["n"], [
            *(task[key]["speech"] for key in ("strict", "authors")),
            task["strict_speech_minus"]["blank"],
            scores["agreement"]["speech"]["rouge_l"],
        ]

    n, once = scored()
    file.write_text(json.dumps(entries | {f"../test/{name}": e for name, e in entries.items()}))
    assert scored()[0] == 2 * n
    for one, other in zip(once, scored()[1], strict=True):
        assert other == pytest.approx(one)


def test_a_recipe_may_say_what_the_text_llm_reads(superb):
    benchmark = Classification(
        str(superb), tasks=["EmotionRecognition_Made"], describe=lambda row: f"{row.id} reads"
    )
    items = benchmark.items()[:2]
    known = Row("known", items[0].audio, 0.5, "Hi.", "en", "s", attributes={"emotion": "happy"})
    rows = rows_of(items, {items[0].audio: known})
    asked = benchmark.decode_items(items, rows, "b", "text")
    # A clip whose attributes nobody knows is described by the benchmark, here not at all.
    assert [item.row.text for item in asked] == ["known reads", ""]
    assert benchmark.decode_items(items, rows, "b", "speech")[0].row.text == "Hi."


# -- Speech-IFEval's format -------------------------------------------------------------------


@pytest.fixture
def ifeval(tmp_path):
    return write_ifeval(tmp_path)


def test_if_rate_and_forgetting_by_hand(ifeval):
    benchmark = InstructionFollowing(str(ifeval))
    items = benchmark.items()
    assert len(items) == 8 and len({item.id for item in items}) == 8
    asked = benchmark.decode_items(items, rows_of(items, {}), "if", "text")
    assert asked[0].row.text.startswith("[00:00:00") and asked[0].wording == items[0].id
    assert benchmark.decode_items(items, rows_of(items, {}), "if", "speech")[0].row.text == ""

    def good(item):
        return {"closed-ended": "MALE", "creative": "* a\n* b"}.get(item.group, "Because.")

    answers = decoded(
        items,
        text=good,
        speech=lambda i: "It is male" if i.id == "closed-ended/0" else good(i),
        blank="",
    )
    scores = benchmark.score(items, answers, PLAN)
    main = scores["readings"]["authors"]
    assert main["parts"]["speech"]["closed-ended"]["value"] == 0.5
    assert main["if_rate"]["text"]["value"] == pytest.approx(1.0)
    # Parts weigh alike: (1/2 + 1) / 2, and (0.75 - 1) / 1.
    assert main["if_rate"]["speech"]["value"] == pytest.approx(0.75)
    # All items are about one clip: there is nothing to resample.
    rate = main["if_rate"]["speech"]
    assert len({item.audio for item in items}) == 1
    assert rate["low"] == rate["high"] == pytest.approx(0.75)
    assert main["forgetting"]["speech"]["value"] == pytest.approx(-0.25)
    assert main["forgetting"]["blank"]["value"] == pytest.approx(-1.0)
    assert scores["summary"] == {"IFrate": main["if_rate"], "forgetting": main["forgetting"]}
    assert scores["left_out"] == ["chain of thought"]
    assert scores["constraints"]["change_case:english_capital"] == {
        "n": 2, "text": 1.0, "speech": 0.5, "blank": 0.0,
    }  # fmt: skip
    assert scores["tasks"]["closed-ended"]["text"]["Gender_recognition accuracy"] == 1.0
    assert scores["tasks"]["closed-ended"]["text"]["ASR WER"] == 1.0
    assert "Without a judge" in benchmark.table(scores)


def test_a_judge_scores_chains_of_thought(ifeval):
    def judge(conversations):
        return [
            "Result: YES" if "Because" in c[-1]["content"] else "Result: NO" for c in conversations
        ]

    benchmark = InstructionFollowing(str(ifeval))
    items = benchmark.items()
    answers = decoded(items, text="Because.", speech="Male.")
    scores = benchmark.score(items, answers, ScorePlan(bootstrap=50, judge=judge))
    assert scores["readings"]["authors"]["parts"]["text"]["chain of thought"]["value"] == 1.0
    assert scores["readings"]["authors"]["parts"]["speech"]["chain of thought"]["value"] == 0.0
    assert scores["left_out"] == [] and scores["unjudged"] == 0


def test_bad_entries_name_file_and_line(ifeval):
    file = ifeval / "eval_data" / "closed_ended_questions.jsonl"
    good = json.loads(file.read_text().splitlines()[0])
    file.write_text(json.dumps({**good, "instruction_id_list": ["language:response"]}) + "\n")
    with pytest.raises(BenchmarkError, match=r"jsonl: entry 1: no checker for"):
        InstructionFollowing(str(ifeval)).items()
    file.write_text("{broken\n")
    with pytest.raises(BenchmarkError, match="entry 1: no JSON"):
        InstructionFollowing(str(ifeval)).items()
    with pytest.raises(BenchmarkError, match="was asked for"):
        InstructionFollowing(str(ifeval), parts=["unconstrained"]).items()


# -- AIR-Bench-Chat's format, and judges ------------------------------------------------------


@pytest.fixture
def air(tmp_path):
    return write_air(tmp_path)


def test_chat_swaps_places(air):
    benchmark = Chat(str(air), categories=["speech"])
    items = benchmark.items()
    assert [item.id for item in items] == ["0", "1"]

    def judge(conversations):
        """Likes the first place by two points, and right answers by four."""
        out = []
        for (turn,) in conversations:
            text = turn["content"]
            first = text.split("Assistant 1's Answer]\n")[1].split("\n")[0]
            second = text.split("Assistant 2's Answer]\n")[1].split("\n")[0]
            out.append(f"{3 + 2 + 4 * ('R' in first)} {3 + 4 * ('R' in second)}")
        return out

    answers = decoded(items, text=lambda i: i.label, speech="wrong", blank="wrong")
    scores = benchmark.score(items, answers, ScorePlan(bootstrap=50, judge=judge))
    assert scores["inputs"]["speech"]["score"]["value"] == pytest.approx(4.0)  # (3 + 5) / 2
    assert scores["inputs"]["speech"]["reference"]["value"] == pytest.approx(8.0)
    assert scores["inputs"]["text"]["score"]["value"] == pytest.approx(8.0)  # no place is favoured
    assert scores["inputs"]["speech"]["wins"]["value"] == 0.0
    assert "4.00 [" in benchmark.table(scores)
    assert scores["summary"]["score"]["speech"] == scores["inputs"]["speech"]["score"]
    unread = benchmark.score(items, answers, ScorePlan(judge=lambda c: ["Fine!"] * len(c)))
    assert not unread["judged"] and unread["unjudged"] == 2
    assert "Not judged" in benchmark.table(unread)


def test_reading_verdicts():
    assert yes_or_no("Not at first: Result: NO. But then Result: yes") is True
    assert yes_or_no("**No**") is False and yes_or_no("Yes and no") is None
    assert two_scores("8 6") == (8.0, 6.0) and two_scores("7.5, 9") == (7.5, 9.0)
    assert two_scores("Here:\n\n9 3\nsince") == (9.0, 3.0)
    assert two_scores("0 5") is None and two_scores("8") is None and two_scores("8 6 7") is None
    # One score out of ten is not two.
    assert two_scores("8/10") is None and two_scores("Score: 8 / 10") is None


@pytest.fixture
def server():
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, self.headers.get("Authorization")))
            status = 503 if len(seen) == 1 else 401 if body["model"] == "none" else 200
            self.send_response(status)
            self.end_headers()
            content = body["messages"][-1]["content"].upper()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": content}}]}).encode())

        def log_message(self, *_):
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}/v1/", seen
    made.shutdown()


def test_served_judge_retries_keeps_verdicts_and_is_deterministic(server, tmp_path):
    url, seen = server
    store = str(tmp_path / "verdicts.jsonl")
    judge = ServedJudge(Endpoint(url, "m", concurrency=1, backoff=0.0), store)
    asked = [[{"role": "user", "content": "8 6"}], [{"role": "user", "content": "a"}]]
    assert judge(asked) == ["8 6", "A"]
    path, body, _ = seen[-1]
    assert path == "/v1/chat/completions" and body["temperature"] == 0
    assert len(seen) == 3  # one more after the 503
    assert judge(asked[::-1]) == ["A", "8 6"] and len(seen) == 3
    with pytest.raises(EndpointError, match="401"):
        ServedJudge(Endpoint(url, "none"), store)(asked)


def test_local_judge(tmp_path):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny_models import save_llama

    judge = LocalJudge(str(save_llama(tmp_path / "llm")), max_new_tokens=4, batch_size=2)
    turns = [[{"role": "user", "content": f"Is {{audio}} {i} right?"}] for i in range(3)]
    answers = judge(turns)
    assert len(answers) == 3 and answers == [judge([turn])[0] for turn in turns]
    chances = judge.choose(turns[0], ["Yes", "No"])
    assert sum(chances) == pytest.approx(1.0) and min(chances) > 0
    assert judge.choose(turns[0], ["No", "Yes"]) == pytest.approx(chances[::-1], abs=1e-5)
    with pytest.raises(JudgeError, match="one user turn"):
        judge([[{"role": "assistant", "content": "x"}]])


# -- Embedded sets ----------------------------------------------------------------------------


def test_embedded_sets_are_read_by_the_runners(tmp_path):
    rows = []
    for i in range(24):
        path = tmp_path / "audio" / f"{i:02d}.wav"
        wav(path)
        found = {
            "gender": ("female", "male")[i % 2], "pitch": ("low", "normal", "high")[i % 3],
            "noise_level": "low", "snr_level": 30.0 + i, "accent": "Scottish",
        }  # fmt: skip
        rows.append(Row(f"r{i}", str(path), 0.5, f"Text {i}.", "en", "s", attributes=found))
    places = write_embedded(rows, tmp_path / "sets", per_task=8)
    files = {p: p.read_bytes() for p in (tmp_path / "sets").rglob("*.json*")}
    write_embedded(rows[::-1], tmp_path / "sets", per_task=8)
    assert files == {p: p.read_bytes() for p in (tmp_path / "sets").rglob("*.json*")}
    benchmarks = {
        "classification": Classification(str(places["dynamic_superb"])),
        "following": InstructionFollowing(str(places["speech_ifeval"])),
        "chat": Chat(str(places["air_bench_chat"])),
    }
    items = {name: benchmark.items() for name, benchmark in benchmarks.items()}
    known = {row.audio: row for row in rows}
    for name, found in items.items():
        matched = rows_of(found, known)
        assert {row.id for row in matched.values()} <= {row.id for row in rows}
        scores = benchmarks[name].score(
            found, decoded(found, text=lambda i: i.label or "x", speech="x", blank="x"), PLAN
        )
        assert benchmarks[name].table(scores) and json.dumps(scores)
    # One value is no question: noise and accent are left out; the others are balanced.
    assert {i.group.partition("_")[0] for i in items["classification"]} == {
        "GenderRecognition", "PitchClassification",
    }  # fmt: skip
    genders = [i.label for i in items["classification"] if i.group.startswith("Gender")]
    assert genders.count("female") == genders.count("male") == 4
    by_audio = {row.audio: row for row in rows}
    for item in items["classification"]:
        assert by_audio[item.audio].attributes["pitch" if "Pitch" in item.group else "gender"] == (
            item.label
        )
        assert by_audio[item.audio].text in item.description
    assert len({i.constraints[0][0] for i in items["following"] if i.constraints}) == 13


def test_plans_take_benchmarks(superb):
    benchmark = Classification(str(superb), inputs=["blank"])
    plan = DecodePlan({}, benchmarks={"superb": benchmark})
    assert plan.benchmarks["superb"].inputs == ["text", "speech", "blank"]
    assert DecodePlan({}).benchmarks == {} and ScorePlan().judge is None
    manifest = superb / "clips.jsonl"
    assert benchmark.write_manifest(manifest) == 5 and manifest.stat().st_size
