"""Plans, scores and tables on hand-made decoded rows."""

import copy
import math

import pytest

from toolkit.data.manifest import Row
from toolkit.evaluation import DecodePlan, ScorePlan
from toolkit.evaluation.decoding import _partners, read_decoded
from toolkit.evaluation.scoring import score_set
from toolkit.evaluation.tables import paired_lines, results_table, task_table
from toolkit.teachers import InstructionPool


def row(name, text="press one"):
    return Row(id=name, audio=f"{name}.wav", duration=1.0, text=text, language="en", speaker="s")


def decoded(kind, answers, nll=2.0, heard=None):
    """The same answers as items of the tasks and as repetitions."""
    rows = [
        {
            "id": f"u{i}|repetition/{i % 2 * 4}" + "|repeat" * repeat,
            "utterance": f"u{i}",
            "task": "repetition",
            "wording": f"repetition/{i % 2 * 4}",
            "seen_task": True,
            "seen_wording": i % 2 == 0,
            "repeat": repeat,
            "input": kind,
            "transcript": "press one now",
            "answer": answer,
            "nll": nll,
            "tokens": 4,
        }
        for repeat in (False, True)
        for i, answer in enumerate(answers)
    ]
    for row, text in zip(rows[len(answers) :], heard or (), strict=False):
        row["heard"] = text
    return rows


@pytest.fixture
def scores():
    runs = {
        "text": decoded("text", ["press one now"] * 4, nll=1.0),
        "speech": decoded(
            "speech",
            ["press one now", "press now", "press two now", "press one now"],
            heard=["press one now", "press on now", "press one now", "press one"],
        ),
        "blank": decoded("blank", ["hello"] * 4, nll=8.0),
    }
    return score_set(runs, ScorePlan(bootstrap=200), InstructionPool())


def test_numbers_by_hand(scores):
    speech = scores["speech"]
    assert speech["wer"]["value"] == pytest.approx(2 / 12)
    assert (speech["wer"]["substitutions"], speech["wer"]["deletions"]) == (1, 1)
    assert speech["perplexity"]["value"] == pytest.approx(math.exp(0.5))
    # ROUGE-L: two equal, "press now" 2*2/5, "press two now" 2*2/6
    assert speech["rouge_l"]["value"] == pytest.approx((1 + 0.8 + 2 / 3 + 1) / 4)
    assert scores["text"]["wer"]["value"] == 0.0
    # One substitution and one deletion in twelve words; text is read, not heard.
    assert speech["heard_wer"]["value"] == pytest.approx(2 / 12)
    assert speech["n"] == 4 and "heard_wer" not in scores["text"]
    assert scores["blank"]["wer"]["value"] == 1.0


def test_controls_are_compared_with_speech(scores):
    against = scores["blank"]["against_speech"]
    assert against["wer"]["difference"] == pytest.approx(1 - 2 / 12)
    assert against["wer"]["p"] == pytest.approx(1 / 200)
    assert "against_speech" not in scores["speech"]


def test_what_is_asked_about_one_utterance_is_resampled_together():
    """More questions on the same few utterances make no interval narrower and no test surer."""
    answers = {
        "text": ["press one now"] * 4,
        "speech": ["press one now", "press now", "press two now", "press one now"],
        "blank": ["press one now", "press now", "hello", "press"],
    }
    once = {kind: decoded(kind, said) for kind, said in answers.items()}
    twice = {
        kind: [*rows, *({**r, "id": f"{r['id']}/again"} for r in rows if not r["repeat"])]
        for kind, rows in once.items()
    }
    # Inputs need not list the items in one order.
    twice["blank"].reverse()
    few, many = (score_set(r, ScorePlan(bootstrap=200), InstructionPool()) for r in (once, twice))
    assert (few["speech"]["n"], many["speech"]["n"]) == (4, 8)
    for kind in answers:
        for metric in ("wer", "rouge_l", "perplexity"):
            assert many[kind][metric] == pytest.approx(few[kind][metric])
        for group, values in few[kind]["following"].items():
            assert many[kind]["following"][group] == pytest.approx(values)
    assert few["speech"]["rouge_l"]["low"] < few["speech"]["rouge_l"]["high"]
    for metric, values in few["blank"]["against_speech"].items():
        assert many["blank"]["against_speech"][metric] == pytest.approx(values)
    # Two utterances of four differ, so that resampling finds none of them one time in sixteen.
    assert few["blank"]["against_speech"]["rouge_l"]["p"] > 0.01


def test_groups_follow_what_training_saw(scores):
    following = scores["speech"]["following"]
    assert set(following) == {"seen wording", "held-out wording"}
    assert following["seen wording"]["value"] == 1.0


def test_tables_show_every_input_and_the_normaliser(scores):
    run = {"normaliser": "english", "seed": 1, "sets": {"recorded": scores}}
    table = results_table([run], "recorded")
    assert "repeat WER (english)" in table
    assert "0.167 [" in table and "gold transcript" in table
    assert "± 0.000" in results_table([run, run], "recorded")
    # A second seed of other inputs and groups: what one run alone has is shown as that run's.
    other = copy.deepcopy(run)
    inputs = other["sets"]["recorded"]
    gone = [kind for kind in inputs if kind != "speech"][0]
    del inputs[gone]
    inputs["speech"]["following"].popitem()
    both = results_table([run, other], "recorded").splitlines()
    assert len(both) == len(table.splitlines())
    assert [("±" in line) for line in both[2:]] == [
        kind != gone for kind in run["sets"]["recorded"]
    ]
    assert both[2 + list(run["sets"]["recorded"]).index(gone)].count("(1 seed)") >= 2
    # An input of the second seed alone has a row as well.
    assert len(results_table([other, run], "recorded").splitlines()) == len(both)
    assert "| repetition | 4 | 1.00 |" in task_table(run, "recorded")
    assert len(paired_lines(run, "recorded")) == 1
    # The smallest p that so many resamples can give; score files of before take the default.
    assert "wer +0.833 (p ≤ 0.005)" in paired_lines({**run, "bootstrap": 200}, "recorded")[0]
    assert "wer +0.833 (p = 0.005)" in paired_lines(run, "recorded")[0]


def test_a_judge_must_be_one_that_can_be_asked():
    from toolkit.evaluation import EndpointJudge
    from toolkit.teachers import Endpoint

    metric = EndpointJudge(Endpoint("http://localhost:1", model="x"), "judge.jsonl")
    with pytest.raises(ValueError, match="EndpointJudge.*ServedJudge or LocalJudge"):
        ScorePlan(judge=metric)
    assert ScorePlan(judge=lambda conversations: ["5"] * len(conversations)).judge is not None


def test_plan_asks_every_task_with_seen_and_held_out_wordings():
    plan = DecodePlan(sets={}, items_per_task=4, repeat_items=6)
    items = plan.items([row(f"u{i}") for i in range(10)], repeat_wording=5)
    repeats = [i for i in items if i.repeat]
    assert len(repeats) == 6 and {i.wording for i in repeats} == {"repetition/5"}
    assert not any(i.seen_wording for i in repeats)
    alike = DecodePlan(sets={}, items_per_task=4, repeat_items=0, same_utterances=True)
    asked = [plan.items([row(f"u{i}") for i in range(50)]) for plan in (plan, alike)]
    heard = [{i.row.id for i in found if not i.repeat} for found in asked]
    assert [len(ids) for ids in heard] == [44, 4]
    lone = DecodePlan(sets={}, repeat_min_words=2).items([row("a", "press"), row("b", "press one")])
    assert {i.row.id for i in lone if i.repeat} == {"b"}
    repetition = [i for i in items if i.task == "repetition" and not i.repeat]
    assert len(repetition) == len([i for i in items if i.task == "title"]) == 4
    assert [i.seen_wording for i in repetition] == [True, False] * 2
    assert len({i.id for i in items}) == len(items)
    assert not any(i.seen_wording for i in items if not i.seen_task)
    # What training had counts, not what it may have had; repetition by either name.
    (run,) = DecodePlan(sets={"a": "a.jsonl"}).runs(trained=["transcription", "title"])
    items = run.items([row(f"u{i}") for i in range(50)])
    assert {i.task for i in items if i.seen_task} == {"repetition", "title"}
    assert {i.seen_wording for i in items if i.seen_task} == {True, False}
    assert not any(i.seen_wording for i in items if not i.seen_task)


def test_text_goes_first_and_unknown_inputs_are_refused():
    assert DecodePlan(sets={}, inputs=["blank", "speech"]).inputs == ["text", "speech", "blank"]
    with pytest.raises(ValueError, match="silence"):
        DecodePlan(sets={}, inputs=["silence"])


def test_partners_have_another_text():
    rows = [row("a", "x"), row("b", "x"), row("c", "y"), row("d", "x")]
    partners = _partners(rows)
    by_id = {r.id: r for r in rows}
    assert all(partner.text != by_id[name].text for name, partner in partners.items())
    assert set(partners) == {"a", "b", "c", "d"}


def test_a_half_written_line_is_decoded_again(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b')
    assert [r["id"] for r in read_decoded(path)] == ["a"]
    assert path.read_text() == '{"id": "a"}\n'
    assert read_decoded(tmp_path / "absent") == []
    # JSON leaves U+2028 unescaped; it ends no line.
    path.write_text('{"id": "a", "answer": "one\u2028two"}\n{"id": "b"}\n', encoding="utf-8")
    assert read_decoded(path) == [{"id": "a", "answer": "one\u2028two"}, {"id": "b"}]
