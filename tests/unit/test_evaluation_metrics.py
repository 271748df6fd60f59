"""Metrics against numbers computed by hand, and against the libraries they stand on."""

import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import sacrebleu

from tests.tiny_models import save_llama
from toolkit.data.manifest import Row
from toolkit.evaluation import (
    BLEU,
    ChrF,
    Comet,
    Contains,
    EnglishFallback,
    ExactMatch,
    MetricError,
    ScorePlan,
    TargetLanguage,
    TokenF1,
    WordErrorRate,
    YesNoJudge,
)
from toolkit.evaluation.decoding import decoded_row
from toolkit.evaluation.plans import decode_item
from toolkit.evaluation.scoring import score_set
from toolkit.evaluation.statistics import bootstrap
from toolkit.evaluation.tables import metric_tables
from toolkit.teachers import InstructionPool, Task

HYPOTHESES = ["the cat sat on the mat today", "hello there", "press the pound key now please"]
REFERENCES = ["the cat sat on a mat", "hello there my friend", "press the pound key now"]


def rows_of(answers, references, **extra):
    return [
        {"id": f"u{i}", "answer": a, "reference": r, "transcript": r, **extra}
        for i, (a, r) in enumerate(zip(answers, references, strict=True))
    ]


@pytest.mark.parametrize(
    "metric, theirs",
    [
        (BLEU(), sacrebleu.metrics.BLEU()),
        (BLEU(lowercase=True), sacrebleu.metrics.BLEU(lowercase=True)),
        (ChrF(), sacrebleu.metrics.CHRF()),
        (ChrF(word_order=2), sacrebleu.metrics.CHRF(word_order=2)),
    ],
)
def test_sacrebleu_metrics_are_sacrebleu(metric, theirs):
    expected = theirs.corpus_score(HYPOTHESES, [REFERENCES]).score
    assert metric.corpus(rows_of(HYPOTHESES, REFERENCES)) == pytest.approx(expected, abs=1e-9)
    assert metric.signature == str(theirs.get_signature())


def test_bleu_is_resampled_as_a_corpus_score():
    rows = rows_of(HYPOTHESES, REFERENCES)
    metric = BLEU()
    values = metric.statistics(rows)
    drawn = metric.combine(values[np.array([[0, 0, 2], [1, 2, 2]])])
    for score, chosen in zip(drawn, ([0, 0, 2], [1, 2, 2]), strict=True):
        expected = sacrebleu.corpus_bleu(
            [HYPOTHESES[i] for i in chosen], [[REFERENCES[i] for i in chosen]]
        )
        assert score == pytest.approx(expected.score)
    value, low, high = bootstrap(values, 100, statistic=metric.combine)
    assert low <= value <= high and value == pytest.approx(metric.corpus(rows))


def test_exact_match_and_f1_follow_squad():
    rows = [
        {"reference": "the pound key", "answer": "Pound key!"},
        {"reference": "2", "references": ["2", "two"], "answer": "two"},
        {"reference": "star", "answer": "press the star key"},
        {"reference": "star", "answer": ""},
    ]
    assert ExactMatch().corpus(rows) == 0.5
    # 1, 1, 2 * 1 / (1 + 3), 0
    assert TokenF1().corpus(rows) == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert Contains().corpus(rows) == 0.75


def test_word_error_rate_takes_the_reference_first():
    row = {"reference": "uno dos", "transcript": "one two three", "answer": "uno tres"}
    assert WordErrorRate("basic").corpus([row]) == 0.5
    assert WordErrorRate("basic").corpus([{**row, "reference": ""}]) == 1.0


def test_a_missing_reference_names_row_and_metric():
    with pytest.raises(MetricError, match="exact match.*'u7'.*reference"):
        ExactMatch().corpus([{"id": "u7", "answer": "x"}])


def test_language_rates():
    answers = [
        "Pulse la tecla numeral para continuar.",
        "Please press the pound key to continue.",
        "Appuyez sur la touche carrée pour continuer.",
        "1 2 3",
    ]
    rows = rows_of(answers, ["Pulse la tecla."] * 4, language="es", task="en_es")
    assert TargetLanguage().corpus(rows) == 0.25
    assert EnglishFallback().corpus(rows) == 0.25
    assert TargetLanguage(of_references=True).corpus(rows) == 1.0
    with pytest.raises(MetricError, match="asks for English"):
        EnglishFallback().corpus([{**rows[0], "language": "en"}])
    with pytest.raises(ValueError, match="two-letter"):
        TargetLanguage(candidates=["klingon"]).corpus(rows)


def test_comet_runs_the_command_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("TOOLKIT_COMET", raising=False)
    with pytest.raises(MetricError, match="environment of its own"):
        Comet(command=str(tmp_path / "absent")).prepare("cpu")
    script = tmp_path / "comet-score"
    # The options and the file that comet-score 2.2 reads and writes.
    script.write_text(
        f"#!{sys.executable}\n"
        "import argparse, json\n"
        "p = argparse.ArgumentParser()\n"
        "p.add_argument('-s'); p.add_argument('-t', nargs='+'); p.add_argument('-r')\n"
        "p.add_argument('--model'); p.add_argument('--gpus', type=int)\n"
        "p.add_argument('--batch_size', type=int); p.add_argument('--to_json')\n"
        "p.add_argument('--quiet', action='store_true')\n"
        "p.add_argument('--only_system', action='store_true')\n"
        "a = p.parse_args()\n"
        "if a.model == 'none': raise SystemExit('no such model')\n"
        "files = [open(f, encoding='utf-8').read().splitlines() for f in (a.s, a.t[0], a.r)]\n"
        "data = [dict(src=s, mt=t, ref=r, COMET=float(t == r)) for s, t, r in zip(*files)]\n"
        "json.dump({a.t[0]: data}, open(a.to_json, 'w'))\n"
    )
    script.chmod(0o755)
    rows = rows_of(["hola\nque tal", "adiós"], ["hola que tal", "hasta luego"])
    metric = Comet(command=str(script))
    # Line breaks inside an answer do not shift the lines.
    assert metric.statistics(rows)[:, 0].tolist() == [100.0, 0.0]
    assert metric.corpus(rows) == 50.0
    with pytest.raises(MetricError, match="no such model"):
        Comet(model="none", command=str(script)).corpus(rows)


def test_judge_reads_the_logits_of_its_options(tmp_path):
    import torch

    source = str(save_llama(tmp_path / "llm"))
    rows = [
        {"question": "Which key?", "reference": "two", "answer": answer}
        for answer in ("two", "one", "please hold the line")
    ]
    judge = YesNoJudge(source, value="probability")
    # The tiny tokenizer has no token "Yes": the judge says so instead of scoring its first byte.
    with pytest.raises(MetricError, match="single token"):
        judge.probabilities(rows)
    # Other options: two tokens that it has.
    judge.options = lambda: [[10], [11, 12]]
    found = judge.probabilities(rows)
    for row, value in zip(rows, found, strict=True):
        rendered = judge.prompt.render(judge.llm.tokenizer, row, row["answer"])
        with torch.no_grad():
            logits = judge.llm.model(torch.tensor([rendered.ids])).logits[0, -1].float()
        mass = logits.softmax(-1)
        assert value == pytest.approx(float(mass[10] / (mass[10] + mass[11] + mass[12])), rel=1e-4)
    # No row depends on its batch mates.
    judge.batch_size = 1
    assert judge.probabilities(rows) == pytest.approx(found, rel=1e-5)
    accurate = YesNoJudge(source)
    accurate.options = judge.options
    assert accurate.corpus(rows) == np.mean(np.array(found) > 0.5)
    with pytest.raises(ValueError, match="neither accuracy nor"):
        YesNoJudge(source, value="loudness")


@pytest.fixture
def scored():
    task = Task("en_es", ("Translate:",) * 2, lambda a, t: bool(a), target="text", language="es")
    answers = {
        "text": ["pulse uno ahora mismo por favor", "gracias por llamar a este número"],
        "speech": ["pulse uno ahora mismo", "thank you for calling this number"],
        "blank": ["hello", "hello"],
    }
    decoded = {
        kind: [
            {**row, "task": "en_es", "wording": "en_es/0", "seen_task": True, "seen_wording": True}
            for row in rows_of(found, answers["text"], language="es")
        ]
        for kind, found in answers.items()
    }
    plan = ScorePlan(bootstrap=100, metrics={"en_*": [BLEU(), TargetLanguage(["en", "es"])]})
    return score_set(decoded, plan, InstructionPool([task]))


def test_listed_metrics_are_scored_per_task_with_paired_tests(scored):
    speech, blank = scored["speech"]["metrics"]["en_es"], scored["blank"]["metrics"]["en_es"]
    assert scored["text"]["metrics"]["en_es"]["BLEU"]["value"] == pytest.approx(100.0)
    assert speech["target language"]["value"] == 0.5
    assert "against_speech" not in speech["BLEU"]
    assert blank["BLEU"]["against_speech"]["difference"] == pytest.approx(
        blank["BLEU"]["value"] - speech["BLEU"]["value"]
    )
    # No task repeats: no word errors, and no likelihoods in these rows.
    assert scored["blank"]["against_speech"].keys() == {"rouge_l"}


def test_metric_table_names_signature_and_direction(scored):
    lines = metric_tables([{"sets": {"recorded": scored}}], "recorded")
    table = "\n".join(lines)
    assert "### en_es (2 items)" in table and "BLEU ↑" in table
    assert "tok:13a" in table and "lid:lingua" in table
    assert json.dumps(scored["speech"]["metrics"])  # goes into scores.json as it is
    # Of several seeds, the mean and spread over them.
    other = copy.deepcopy(scored)
    value = scored["speech"]["metrics"]["en_es"]["target language"]["value"]
    other["speech"]["metrics"]["en_es"]["target language"]["value"] = value + 0.2
    runs = [{"seed": i, "sets": {"recorded": own}} for i, own in enumerate([scored, other])]
    (line,) = [x for x in metric_tables(runs, "recorded") if "**speech**" in x]
    assert f"{value + 0.1:.3f} ± 0.141" in line and "[" not in line


def test_a_metric_that_not_all_seeds_have_is_shown_over_those_that_do(scored):
    """A recipe may list a metric, or a task's first one, between two seeds."""
    later = copy.deepcopy(scored)
    for entry in scored.values():
        del entry["metrics"]["en_es"]["BLEU"]
    runs = [{"seed": i, "sets": {"recorded": own}} for i, own in enumerate([scored, later])]
    # One seed has no spread; the paired tests are the first seed's, which has none of this metric.
    for order, p in ((runs, False), (runs[::-1], True)):
        lines = metric_tables(order, "recorded")
        assert sum("BLEU ↑" in line for line in lines) == 1
        (line,) = [x for x in lines if "blanked" in x]
        bleu = next(cell for cell in line.split("|") if "[" in cell)
        assert "±" not in bleu and ("p " in bleu) == p and line.count("±") == 1
    for entry in scored.values():
        entry["metrics"].clear()
    assert metric_tables(runs, "recorded")[0] == "### en_es (2 items)"


def test_questions_on_one_recording_are_resampled_together():
    """Two questions on each of eight clips, all right or all wrong of one clip."""
    task = Task("where", ("Where?",), lambda answer, transcript: True, target="answer")
    rows = [Row(f"p{i // 2}-q{i % 2}", f"/p{i // 2}.wav", 1.0, "Hi.", "en", "s") for i in range(16)]
    items = [replace(decode_item(task, row, 0), references=("yes",)) for row in rows]
    own = [decoded_row(item, "text", "yes" if k % 4 < 2 else "no") for k, item in enumerate(items)]
    plan = ScorePlan(bootstrap=2000, metrics={"where": [ExactMatch()]})
    widths = {}
    for name, decoded in (
        ("together", own),
        ("apart", [{k: v for k, v in row.items() if k != "clip"} for row in own]),
    ):
        found = score_set({"text": decoded, "speech": decoded}, plan, InstructionPool([task]))
        entry = found["speech"]["metrics"]["where"]["exact match"]
        assert entry["value"] == 0.5 and entry["n"] == 16
        widths[name] = entry["high"] - entry["low"]
    assert widths["together"] > 1.25 * widths["apart"]


def test_patterns_choose_metrics():
    bleu, f1 = BLEU(), TokenF1()
    plan = ScorePlan(metrics={"*_es": [bleu], "en_*": [bleu, f1]})
    assert plan.metrics_of("en_es") == [bleu, f1]
    assert plan.metrics_of("es_en") == []
    assert plan.all_metrics() == [bleu, f1]
