"""References as targets: tasks that apply to a row, toplines with floors, what is written."""

import json
from pathlib import Path

import pytest

from tests.tiny_models import save_llama
from toolkit.data import TargetSet
from toolkit.data.manifest import Row, read_manifest, write_manifest
from toolkit.evaluation import DecodePlan
from toolkit.llms import CausalLM, Prompt
from toolkit.teachers import InstructionPool, ReferenceTeacher, question_pool, translation_pool
from toolkit.teachers.answers import AnswerStore
from toolkit.teachers.gold_tasks import is_in_language, joined


def rows():
    spanish = Row("es1", "/e.wav", 1.0, "press one", "es", "s", translations={"en": "please hold"})
    english = Row("en1", "/n.wav", 1.0, "press two", "en", "s", translations={"es": "star"})
    question = Row(
        "q1", "/n.wav", 1.0, "press two", "en", "s", question="Which key?", answer="two",
        attributes={"answers": ["two", "2"]},
    )  # fmt: skip
    return [spanish, english, question]


POOL = joined(translation_pool([["es", "en"]], held_out=[["en", "es"]]), question_pool())


def test_tasks_apply_where_language_and_reference_are_there():
    accepted = {row.id: [task.name for task in POOL if task.accepts(row)] for row in rows()}
    assert accepted == {"es1": ["es_en"], "en1": ["en_es"], "q1": ["question_answering"]}
    assert POOL["question_answering"].references(rows()[2]) == ("two", "2")


def test_read_and_spoken_questions_are_asked_of_their_own_rows():
    read = rows()[2]
    heard = Row(
        "q1-spoken", "/n.wav", 1.0, "press two Which key?", "en", "s", answer="two",
        attributes={"spoken_question": "Which key?"},
    )  # fmt: skip
    pool = joined(question_pool(), question_pool(spoken=True, name="spoken", passage="text"))
    accepted = {r.id: [task.name for task in pool if task.accepts(r)] for r in (read, heard)}
    assert accepted == {"q1": ["question_answering"], "q1-spoken": ["spoken"]}
    assert all("{passage}" not in w for task in pool for w in task.wordings)
    asked = question_pool(passage="story")["question_answering"].wordings
    assert asked[0] == "Answer the question about the following story with a few words. {question}"


def test_questions_stand_in_the_instruction_and_half_of_the_wordings_is_held_out():
    items = DecodePlan(sets={}, pool=POOL, items_per_task=4).items(rows())
    by_task = {item.task: item for item in items}
    assert len(items) == 3
    assert "Which key?" in by_task["question_answering"].instruction
    assert by_task["question_answering"].references == ("two", "2")
    assert by_task["es_en"].language == "en" and by_task["es_en"].seen_wording
    assert not by_task["en_es"].seen_task
    for task in (*POOL, *question_pool(spoken=True)):
        assert len(set(task.wordings)) == 8


def test_plan_uses_seen_tasks_and_wordings_only():
    teacher = ReferenceTeacher(["m"], POOL)
    many = [Row(f"es{i}", "/e", 1.0, "uno", "es", "s", translations={"en": "a"}) for i in range(50)]
    items = teacher.plan([*many, rows()[1]])
    assert {item.task for item in items} == {"es_en"}
    assert {item.wording for item in items} == {f"es_en/{i}" for i in range(4)}
    assert teacher.plan(many, exclude=["es_en"]) == []


def test_topline_scores_against_the_best_reference_and_floors_are_per_task():
    teacher = ReferenceTeacher(["m"], POOL, floor=0.5, floors={"es_en": 0.99})
    items = [item for item in teacher.topline_plan(rows())]
    answers = {"es_en": "please hold on", "en_es": "star", "question_answering": "2"}
    topline = teacher.topline(items, [{"response": answers[item.task]} for item in items])
    assert topline["question_answering"] == 1.0 and topline["en_es"] == 1.0
    assert 0.5 < topline["es_en"] < 0.99
    assert teacher.carried(topline) == (["en_es", "question_answering"], ["es_en"])
    # A task without a row to try it on is left out too: nothing says the LLM carries it.
    assert teacher.carried({"en_es": 1.0})[1] == ["es_en", "question_answering"]


def test_written_targets_are_the_references(tmp_path):
    llm, prompt = CausalLM(str(save_llama(tmp_path / "llm"))), Prompt()
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, rows())
    teacher = ReferenceTeacher([str(manifest)], POOL)
    items = teacher.plan(read_manifest(manifest))
    store = AnswerStore(tmp_path / "answers.jsonl")
    targets, counts = teacher.select(items, teacher.write(items, llm, prompt, store))
    assert counts["kept"] == 2 and not llm.materialised
    path = tmp_path / "targets.jsonl"
    path.write_text("".join(f"{json.dumps(t)}\n" for t in targets))
    examples = TargetSet([manifest], path).examples(llm.tokenizer, prompt)
    read = {e.task: llm.tokenizer.decode(e.response, skip_special_tokens=True) for e in examples}
    assert read["es_en"].strip() == "please hold"
    assert read["question_answering"].strip() == "two"
    assert len({e.response[-1] for e in examples}) == 1  # each ends its turn


def test_bad_pools_and_floors_are_refused():
    with pytest.raises(ValueError, match="without a reference.*title"):
        ReferenceTeacher(["m"], InstructionPool(only=["title"]))
    with pytest.raises(ValueError, match="fr_en"):
        ReferenceTeacher(["m"], POOL, floors={"fr_en": 0.2})
    with pytest.raises(ValueError, match="both languages are one"):
        translation_pool([["en", "en"]])
    with pytest.raises(ValueError, match="'xx'"):
        translation_pool([["en", "xx"]])
    with pytest.raises(ValueError, match="one name"):
        joined(question_pool(), question_pool())


def test_translation_check_wants_the_language_and_no_copy():
    spanish = "Pulse la tecla asterisco para cancelar el mensaje."
    assert is_in_language("Press the star key to cancel the message.", spanish, "en")
    assert not is_in_language(spanish, spanish, "en")
    assert not is_in_language(spanish, spanish, "es")  # right language, but only repeated
    assert not is_in_language("", spanish, "en")


@pytest.mark.real
def test_real_prompts_give_translation_rows_with_one_split_per_key(tmp_path, recorded_prompts):
    from recipes.asterisk_sounds.prepare import VOICES, prepare
    from toolkit.weights import CATALOGUE
    from toolkit.weights.packages import downloads_home

    pins = [CATALOGUE.debs[f"asterisk-core-sounds-{name}-wav"] for name in ("en", "es")]
    known = [(p.sha256, *([p.upstream.sha256] if p.upstream else [])) for p in pins]
    if not all(any((downloads_home() / one).is_dir() for one in sums) for sums in known):
        pytest.skip("recordings of two languages are not downloaded")
    prepare(tmp_path, languages=["en", "es"], limit=80)
    folder = Path(tmp_path, "data", "asterisk_sounds")
    split_of = {}
    counts = {task.name: 0 for task in POOL}
    for language in ("en", "es"):
        for part in ("train", "dev", "test"):
            for row in read_manifest(folder / language / f"{part}.jsonl"):
                key = row.attributes["key"]
                assert split_of.setdefault(key, part) == part
                for task in POOL:
                    counts[task.name] += task.accepts(row)
    assert counts["es_en"] > 50 and counts["en_es"] > 50 and set(VOICES) >= {"en", "es"}
