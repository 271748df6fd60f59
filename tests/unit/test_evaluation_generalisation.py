"""The generalisation benchmark on grids whose every number is known."""

import json

import numpy as np
import pytest

from toolkit.data.manifest import Row
from toolkit.evaluation import DecodePlan, ScorePlan
from toolkit.evaluation.decoding import decoded_row
from toolkit.evaluation.generalisation import QUADRANTS, Grid, generalisation, heat_map, quality
from toolkit.evaluation.tables import generalisation_table
from toolkit.teachers import InstructionPool, Task


def exact(reference, answer):
    return float(reference == answer)


def attempted(answer, transcript):
    return answer != "no idea"


TASKS = [
    Task("copy", ("a", "b", "c", "d"), attempted, target="answer", score=exact),
    Task("new", ("e", "f"), attempted, target="answer", score=exact, seen=False),
]
POOL = InstructionPool(TASKS)
ROWS = [Row(f"u{i}", f"/{i}.wav", 1.0, "said", "en", "s", answer="yes") for i in range(3)]
PLAN = DecodePlan({"test": "t.jsonl"}, pool=POOL, grid=["test"], grid_items=3)


def decoded(kind, answer):
    return [decoded_row(item, kind, answer(item)) for item in PLAN.grid_of(ROWS)]


def index(item):
    return int(item.wording.rpartition("/")[2])


def speech(item):
    if item.task == "new":
        return "yes" if item.row.id == "u0" else "wrong"
    # Seen wordings right, held-out ones: c right for u0 alone, d never attempted.
    return {0: "yes", 1: "yes", 2: "yes" if item.row.id == "u0" else "wrong", 3: "no idea"}[
        index(item)
    ]


@pytest.fixture
def scores():
    runs = {"text": decoded("text", lambda i: "yes"), "speech": decoded("speech", speech)}
    return generalisation(runs, ScorePlan(bootstrap=200), POOL)


def test_a_task_that_training_left_out_is_held_out():
    """Whatever the pool declares: a task below its floor was never trained on."""
    (run,) = [r for r in PLAN.runs(trained=["new"]) if r.name == "test_grid"]
    items = run.items(ROWS)
    rows = [decoded_row(item, "text", "yes") for item in items]
    found = generalisation({"text": rows, "speech": rows}, ScorePlan(bootstrap=20), POOL)["speech"]
    assert {task: cell["seen"] for task, cell in found["cells"].items()} == {
        "copy": False, "new": True,
    }  # fmt: skip
    assert found["worst"]["task"] == "new" and found["tg"]["value"] == 1.0
    none = generalisation({"text": [{**r, "seen_task": False} for r in rows]}, ScorePlan(), POOL)
    assert none["text"]["worst"] is None and none["text"]["pg"]["value"] is None


def test_grid_asks_the_same_utterances_in_every_wording():
    items = PLAN.grid_of(ROWS)
    assert len(items) == 3 * 4 + 3 * 2 and len({i.id for i in items}) == len(items)
    copies = [i for i in items if i.task == "copy"]
    assert [i.seen_wording for i in copies[:4]] == [True, True, False, False]
    assert not any(i.seen_wording for i in items if i.task == "new")
    with pytest.raises(ValueError, match="decode.grid: no sets"):
        DecodePlan({"test": "t.jsonl"}, grid=["other"])


def test_numbers_by_hand(scores):
    entry = scores["speech"]
    assert entry["quality"]["seen task, seen wording"]["value"] == 1.0
    # (1/3 + 0) / 2
    assert entry["quality"]["seen task, held-out wording"]["value"] == pytest.approx(1 / 6)
    assert entry["following"]["seen task, held-out wording"]["value"] == 0.5
    assert entry["pg"]["value"] == pytest.approx(1 / 6)
    assert entry["tg"]["value"] == pytest.approx(1 / 3)
    assert entry["pg"]["low"] <= entry["pg"]["value"] <= entry["pg"]["high"]
    assert entry["worst"]["wording"] == "copy/3" and not entry["worst"]["seen"]
    stds = (np.std([1, 1, 1 / 3, 0]), 0.0)
    assert entry["spread"] == pytest.approx(np.mean(stds))
    assert scores["text"]["pg"]["value"] == scores["text"]["tg"]["value"] == 1.0
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_failures_count_as_zero_whatever_the_metric_says():
    row = {"answer": "no idea", "transcript": "said", "reference": "no idea"}
    assert quality(row, TASKS[0], "yes") == 0.0
    assert quality({**row, "answer": "yes", "references": ["y", "yes"]}, TASKS[0], "") == 1.0
    content = Task("title", ("a", "b"), attempted)
    assert quality({"answer": "a b", "transcript": "x"}, content, "a c") == 0.5


def test_a_hole_in_the_grid_is_named():
    rows = decoded("text", lambda i: "yes")
    text = {row["id"]: row for row in rows}
    with pytest.raises(ValueError, match="copy/3 for u2"):
        Grid([r for r in rows if r["id"] != "u2|copy/3"], text, POOL)


def test_without_held_out_tasks_or_right_answers_ratios_are_absent():
    pool = InstructionPool(TASKS, only=["copy"])
    plan = DecodePlan({"test": "t"}, pool=pool, grid_items=2)
    rows = [decoded_row(item, "text", "wrong") for item in plan.grid_of(ROWS)]
    entry = generalisation({"text": rows}, ScorePlan(bootstrap=10), pool)["text"]
    assert entry["tg"]["value"] is None and entry["pg"]["value"] is None
    assert "| - | - |" in "\n".join(generalisation_table({"text": entry}))


def test_tasks_of_a_single_wording_have_a_first_half_alone():
    """They are in the means of the wordings they have, and spoil no other."""
    single = [
        Task("one", ("g",), attempted, target="answer", score=exact),
        Task("lone", ("h",), attempted, target="answer", score=exact, seen=False),
    ]
    pool = InstructionPool([*TASKS, *single])
    plan = DecodePlan({"test": "t"}, pool=pool, grid_items=3)
    items = plan.grid_of(ROWS)
    # The single wordings are answered wrongly, the others as above.
    wrong = {"one", "lone"}
    runs = {
        "text": [decoded_row(i, "text", "yes") for i in items],
        "speech": [
            decoded_row(i, "speech", "wrong" if i.task in wrong else speech(i)) for i in items
        ],
    }
    entry = generalisation(runs, ScorePlan(bootstrap=50), pool)["speech"]
    assert entry["quality"]["seen task, seen wording"]["value"] == pytest.approx(1 / 2)
    assert entry["quality"]["seen task, held-out wording"]["value"] == pytest.approx(1 / 6)
    assert entry["pg"]["value"] == pytest.approx(1 / 3)
    first, second = QUADRANTS[2][0], QUADRANTS[3][0]
    assert entry["quality"][first]["value"] == pytest.approx(1 / 6)
    assert entry["quality"][second]["value"] == pytest.approx(1 / 3)
    # Over tasks, each over its own halves: 1/3 of "new", nothing of "lone".
    assert entry["tg"]["value"] == pytest.approx(1 / 6)
    alone = InstructionPool(single)
    rows = [decoded_row(i, "text", "yes") for i in items if i.task in wrong]
    entry = generalisation({"text": rows}, ScorePlan(bootstrap=10), alone)["text"]
    assert entry["tg"]["value"] == 1.0 and entry["pg"]["value"] is None
    assert entry["quality"]["seen task, held-out wording"]["value"] is None
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_tasks_on_the_same_utterances_are_resampled_together():
    """Of two tasks whose qualities sum to one on each utterance, the mean has no spread."""
    tasks = [Task(n, (n, n.upper()), attempted, target="answer", score=exact) for n in "ab"]
    pool = InstructionPool(tasks)
    plan = DecodePlan({"test": "t"}, pool=pool, grid_items=3)
    rows = [
        decoded_row(i, "text", "yes" if (i.task == "a") == (i.row.id == "u0") else "wrong")
        for i in plan.grid_of(ROWS)
    ]
    entry = generalisation({"text": rows}, ScorePlan(bootstrap=100), pool)["text"]
    mean = entry["quality"]["seen task, seen wording"]
    assert [mean[k] for k in ("value", "low", "high")] == pytest.approx([0.5] * 3)


def test_questions_on_one_recording_are_drawn_together():
    """By whatever names their rows go, in one task or in two."""
    tasks = [
        Task(n, (n, n.upper()), attempted, target="answer", score=exact, source_languages=(n,))
        for n in "ab"
    ]
    pool = InstructionPool(tasks)
    plan = DecodePlan({"test": "t"}, pool=pool, grid_items=8)
    rows = [
        Row(f"p{i // 2}-q{i % 2}-{n}", f"/p{i // 2}.wav", 1.0, "said", n, "s", answer="yes")
        for n in "ab"
        for i in range(8)
    ]
    # The answers of a recording are all right, or all wrong, and the other way round in task b.
    own = [
        decoded_row(i, "text", "yes" if (i.row.id[1] in "02") == (i.task == "a") else "wrong")
        for i in plan.grid_of(rows)
    ]
    apart = [{k: v for k, v in row.items() if k != "clip"} for row in own]

    def interval(answers, *names):
        chosen = [row for row in answers if row["task"] in names]
        found = generalisation({"text": chosen}, ScorePlan(bootstrap=2000), pool)["text"]
        entry = found["quality"]["seen task, seen wording"]
        assert entry["value"] == 0.5
        return entry["high"] - entry["low"]

    assert interval(own, "a") > 1.25 * interval(apart, "a") > 0
    assert interval(own, "a", "b") == pytest.approx(0) and interval(apart, "a", "b") > 0.2


@pytest.mark.parametrize("name", ["repetition", "transcription"])
def test_repeated_transcripts_are_scored_by_their_words(name):
    row = {"answer": "press one", "transcript": "press one now please"}
    assert quality(row, Task(name, ("a", "b"), attempted), "something else") == 0.5


def test_table_and_heat_map(scores, tmp_path):
    table = "\n".join(generalisation_table(scores))
    assert "0.50 / 0.17" in table and "copy/3 (held out), Q 0.00" in table
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    image = imread(heat_map(scores, tmp_path / "map.png"))
    assert image.shape[0] > 100 and image.shape[1] > 300
    # Several distinct colours: values are drawn, not one flat panel.
    assert len(np.unique(image[::4, ::4, :3].reshape(-1, 3), axis=0)) > 20
