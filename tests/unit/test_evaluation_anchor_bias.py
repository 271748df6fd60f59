"""Anchor bias and text regression on tiny models: arithmetic by hand, and what must not move."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import MAX_SECONDS, save_llama, save_whisper, spoken_rows  # noqa: E402

from toolkit.data.collate import Collator  # noqa: E402
from toolkit.encoders import WhisperEncoder  # noqa: E402
from toolkit.evaluation import AnchorBiasPlan, TextRegressionPlan, anchor_attention, anchor_branches  # noqa: E402  # noqa: E402
from toolkit.evaluation import anchor_bias as anchor  # noqa: E402
from toolkit.evaluation.anchor_report import anchor_table, blocking_table, save  # noqa: E402
from toolkit.evaluation.text_regression import regression_table, text_regression  # noqa: E402
from toolkit.interleavers import SpeechOnly  # noqa: E402
from toolkit.llms import CausalLM, Prompt  # noqa: E402
from toolkit.models import SpeechLLM  # noqa: E402
from toolkit.projectors import WindowQFormer  # noqa: E402
from toolkit.teachers import InstructionPool, Task  # noqa: E402

POOL = InstructionPool(only=["repetition", "title", "keywords", "reply"])
PLAN = AnchorBiasPlan(clips=3, pool=POOL, bands=2, blocking_items=4, max_new_tokens=6, batch_size=4)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return str(save_whisper(root / "whisper")), str(save_llama(root / "llm"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return spoken_rows(tmp_path_factory.mktemp("tones"), 4, "u", seed=3)


def build(sources, lora=None) -> SpeechLLM:
    encoder = WhisperEncoder(sources[0], max_seconds=MAX_SECONDS)
    llm = CausalLM(sources[1], lora=lora)
    projector = WindowQFormer(
        encoder.dim, llm.dim, hidden_dim=16, num_heads=2, ffn_dim=24, frame_rate=encoder.frame_rate
    )
    model = SpeechLLM(encoder, projector, SpeechOnly(), llm, Prompt("{instruction}\n{audio}"))
    torch.manual_seed(0)
    for block in (projector, encoder, llm):
        block.materialise().requires_grad_(False)
    return model.eval()


def collator(model) -> Collator:
    return Collator(model.prompt, model.interleaver, model.llm.tokenizer)


@pytest.fixture(scope="module")
def result(sources, rows):
    model = build(sources)
    return anchor.measure(model, rows, collator(model), PLAN)


def numbers(tree):
    if isinstance(tree, dict):
        for value in tree.values():
            yield from numbers(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from numbers(value)
    elif isinstance(tree, float):
        yield tree


def test_the_same_clips_are_asked_every_task_but_repetition(rows) -> None:
    items = PLAN.items(rows)
    assert [item.row.id for item in items] == [i for i in ("u0", "u1", "u2") for _ in range(3)]
    assert [item.task for item in items] == ["title", "keywords", "reply"] * 3
    with pytest.raises(ValueError, match="1 tasks"):
        AnchorBiasPlan(pool=InstructionPool(only=["repetition", "title"])).items(rows)
    with pytest.raises(ValueError, match="at least 1"):
        AnchorBiasPlan(bands=0)


def test_clips_are_those_that_every_task_is_for(rows) -> None:
    spanish = Task("spanish", ("Translate:",) * 2, lambda *_: True, target="translations.es")
    plan = AnchorBiasPlan(clips=3, pool=InstructionPool([*POOL, spanish]))
    some = [
        replace(row, translations={"es": "Hola."}) if i in (1, 3) else row
        for i, row in enumerate(rows)
    ]
    items = plan.items(some)
    assert [item.row.id for item in items] == ["u1"] * 4 + ["u3"] * 4
    assert [item.task for item in items] == ["title", "keywords", "reply", "spanish"] * 2
    with pytest.raises(ValueError, match="none of 4 clips.*reply 4, spanish 0"):
        plan.items(rows)


@pytest.mark.parametrize(
    ("bands", "layers", "expected"),
    [(4, 30, [[0, 8], [8, 16], [16, 24], [24, 30]]), (4, 2, [[0, 1], [1, 2]])],
)
def test_bands_cover_the_layers_once(bands, layers, expected) -> None:
    assert AnchorBiasPlan(bands=bands).layer_bands(layers) == expected


def test_masses_sum_to_one_and_ratios_exclude_the_sink(result) -> None:
    assert set(result["attention"]) == {"speech", "text"}
    for looks in result["attention"].values():
        for which in ("first", "all"):
            mass = looks[which]["mass"]
            assert set(mass) == set(anchor_attention.CLASSES)
            np.testing.assert_allclose(np.sum(list(mass.values()), 0), 1.0, atol=1e-5)
            expected = np.array(mass["slot"]) / (np.array(mass["slot"]) + mass["instruction"])
            np.testing.assert_allclose(looks[which]["ratio"], expected, atol=1e-6)
        # Nothing of the response is seen by the position that predicts its first token.
        assert looks["first"]["mass"]["response"] == [0.0, 0.0]
        assert looks["first"]["density"]["response"] == [None, None]
    found = list(numbers(result))
    assert len(found) > 100 and all(math.isfinite(value) for value in found)


def test_a_branch_does_not_differ_from_itself(sources, rows) -> None:
    model = build(sources)
    items = PLAN.items(rows)
    ways = anchor_branches.branches(model, collator(model))
    ids = [(11, 12, 1)] * len(items)
    text, again = (
        anchor_attention.attention_items(ways["text"], items, ids, PLAN) for _ in range(2)
    )
    difference = anchor_attention.difference(text["all"], again["all"])
    assert difference["ratio"]["difference"] == 0.0
    assert difference["ratio"]["layers"] == [0.0, 0.0]


def test_positions_count_what_is_in_the_prompt(sources, rows, result) -> None:
    model = build(sources)
    lengths = [
        int(model.projector.output_lengths(model.encoder.output_lengths(torch.tensor([n]))))
        for n in (round(16_000 * row.duration) for row in rows[:3])
    ]
    positions = result["attention"]["speech"]["positions"]
    assert positions["slot"] == pytest.approx(np.mean(lengths))
    assert positions["sink"] == 1.0
    uniform = result["attention"]["speech"]["all"]["uniform_ratio"]
    slot, instruction = positions["slot"], positions["instruction"]
    assert uniform == pytest.approx(slot / (slot + instruction))


def test_behaviour_by_hand(rows) -> None:
    items = PLAN.items(rows)[:6]
    first, second = rows[0].text, rows[1].text
    answers = [first, "some title", "some title", second, second, second]
    found = anchor.behaviour(items, answers, PLAN)
    assert found["anchor_rate"]["value"] == pytest.approx(4 / 6)
    # First clip: two of its three pairs differ wholly; second clip: no difference.
    assert found["sensitivity"]["value"] == pytest.approx((2 / 3 + 0) / 2)
    # Clips are resampled: the first twice, or the second twice.
    assert found["anchor_rate"]["low"] == pytest.approx(1 / 3)
    assert found["anchor_rate"]["high"] == pytest.approx(1.0)


def test_looks_are_summed_over_the_items_of_a_clip() -> None:
    look = anchor_attention.Looks()
    columns = list(anchor_attention.CLASSES)
    for clip, slot, instruction in (("b", 0.2, 0.4), ("a", 0.5, 0.1), ("b", 0.4, 0.2)):
        masses = torch.zeros(2, 1, len(columns))
        masses[..., columns.index("slot")] = slot
        masses[..., columns.index("instruction")] = instruction
        look.add(clip, masses, torch.ones(1, len(columns)))
    expected = [[[0.5, 0.6]] * 2, [[0.6, 1.2]] * 2]
    np.testing.assert_allclose(look.pairs(look.mass), expected, atol=1e-6)
    found = anchor_attention.attention({"first": look, "all": look})["all"]
    np.testing.assert_allclose(found["ratio"], 1.1 / 1.8, atol=1e-6)
    overall = found["overall"]["ratio"]
    assert overall["value"] == pytest.approx(1.1 / 1.8, abs=1e-6)
    # Of two clips: the one twice, or the other.
    assert overall["low"] == pytest.approx(0.5, abs=1e-6)
    assert overall["high"] == pytest.approx(0.5 / 0.6, abs=1e-6)


def test_swap_divergence_is_zero_where_the_instructions_are_the_same(sources, rows) -> None:
    model = build(sources)
    items = [item for item in PLAN.items(rows) if item.task == "title"]
    ids = [(11, 12, 1)] * len(items)
    way = anchor_branches.branches(model, collator(model))["speech"]
    assert anchor.swap_divergence(way, items, ids, PLAN)["all"]["value"] == pytest.approx(
        0.0, abs=1e-6
    )
    many = PLAN.items(rows)
    found = anchor.swap_divergence(way, many, [(11, 12, 1)] * len(many), PLAN)
    assert found["first"]["value"] > 1e-3


def test_blocking_costs_something_somewhere(result) -> None:
    for costs in result["blocking"].values():
        assert len(costs["instruction"]) == len(costs["slot"]) == len(result["bands"]) == 2
        changes = [abs(value) for name in anchor_attention.BLOCKED for value in costs[name]]
        assert max(changes) > 1e-4


def test_blocking_meets_several_tasks_and_what_was_said(sources, rows, monkeypatch) -> None:
    """A stride over items that stand in the order of the tasks would always meet the same ones."""
    model = build(sources)
    asked, kept = [], anchor.blocking

    def blocking(way, items, responses, plan):
        asked.append((items, responses))
        return kept(way, items, responses, plan)

    monkeypatch.setattr(anchor, "blocking", blocking)
    plan = AnchorBiasPlan(clips=4, pool=POOL, bands=1, blocking_items=4, max_new_tokens=3)
    found = anchor.measure(model, rows, collator(model), plan)
    items, responses = asked[0]
    assert len(items) == 4 == found["blocking"]["speech"]["items"]
    assert len({item.task for item in items}) > 1
    # Both branches are asked about the same items, and a later run is too.
    assert [i.id for i in asked[1][0]] == [i.id for i in items]
    text = anchor_branches.branches(model, collator(model))["text"]
    end = tuple(model.prompt.end_ids(model.llm.tokenizer))
    for said, response in zip(text.answers(items, plan), responses, strict=True):
        ids = tuple(model.llm.tokenizer(said.text, add_special_tokens=False)["input_ids"])
        # Where the answer was cut, its end is no choice of the LLM's.
        cut = said.finish == "length" and ids
        assert response == (ids if cut else (*ids, *end))


def test_a_changed_llm_has_a_third_branch(sources, rows) -> None:
    model = build(sources, lora={"r": 2, "target_modules": ["q_proj"]})
    for parameter in model.llm._adapters():
        torch.nn.init.normal_(parameter, std=0.5)
    plain = anchor.measure(build(sources), rows, collator(model), PLAN)
    found = anchor.measure(model, rows, collator(model), PLAN)
    assert set(found["attention"]) == {"speech", "text", "own text"}
    reference = found["attention"]["text"]["all"]["ratio"]
    assert reference == pytest.approx(plain["attention"]["text"]["all"]["ratio"], abs=1e-6)
    own = found["attention"]["own text"]["all"]["ratio"]
    assert own != pytest.approx(reference, abs=1e-4)


def test_tables_and_pictures(result, tmp_path) -> None:
    results = {"one": result, "two/b": result}
    save(results, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "heat_one.png", "heat_two_b.png", "ratio.png",
    }  # fmt: skip
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.glob("*.png"))
    value = result["attention"]["speech"]["all"]["overall"]["ratio"]["value"]
    assert f"{value:.3f}" in anchor_table(results)
    assert f"{result['blocking']['text']['slot'][1]:+.3f}" in blocking_table(results)
    gap = result["against_text"]["all"]["ratio"]
    lines = [line for line in anchor_table(results).splitlines() if line.startswith("- ")]
    assert [line.partition(":")[0] for line in lines] == ["- one", "- two/b"]
    assert all(f" / {gap['difference']:+.3f} (p {gap['p']:.3f}) / " in line for line in lines)
    both = {name: result["attention"][name]["all"]["overall"]["ratio"]["value"]
            for name in ("speech", "text")}  # fmt: skip
    assert gap["difference"] == pytest.approx(both["speech"] - both["text"], abs=1e-6)
    text = (tmp_path / "anchor_bias.md").read_text()
    assert "heat_two_b.png" in text and "Layers of the bands: one: 0-0, 1-1" in text


def test_text_regression_sees_a_change_and_only_a_change(sources, rows) -> None:
    plan = TextRegressionPlan(pool=POOL, items_per_task=3, texts=4, max_new_tokens=6)
    prompt = Prompt("{instruction}\n{audio}")
    frozen = CausalLM(sources[1]).materialise().eval()
    same = text_regression(frozen, frozen, prompt, rows, plan)
    assert same["items"] == 12 and same["texts"] == len({row.text for row in rows})
    assert same["following"]["published"] == same["following"]["trained"]
    assert same["perplexity"]["difference"] == 0.0
    broken = CausalLM(sources[1]).materialise().eval()
    for parameter in broken.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    changed = text_regression(frozen, broken, prompt, rows, plan)
    assert changed["perplexity"]["published"] == same["perplexity"]["published"]
    assert changed["perplexity"]["trained"]["value"] > changed["perplexity"]["published"]["value"]
    table = regression_table(changed)
    assert f"{changed['perplexity']['trained']['value']:.2f}" in table
    assert "follows: title" in table


def test_text_regression_draws_transcripts(sources, rows) -> None:
    """Of two tasks of which each transcript passes one, the rate has no spread."""
    half = {row.text for row in rows[:2]}
    checks = {"a": lambda answer, text: text in half, "b": lambda answer, text: text not in half}
    pool = InstructionPool([Task(name, ("Say:", "Tell:"), check) for name, check in checks.items()])
    plan = TextRegressionPlan(pool=pool, items_per_task=4, texts=1, max_new_tokens=2)
    llm = CausalLM(sources[1]).materialise().eval()
    found = text_regression(llm, llm, Prompt("{instruction}\n{audio}"), rows, plan)
    passed = found["following"]["trained"]
    assert found["tasks"]["a"]["trained"] == 0.5
    assert [passed[key] for key in ("value", "low", "high")] == [0.5] * 3


def test_perplexity_by_hand(sources, rows) -> None:
    llm = CausalLM(sources[1]).materialise().eval()
    plan = TextRegressionPlan(pool=POOL, items_per_task=1, texts=1, max_new_tokens=2)
    found = text_regression(llm, llm, Prompt("{instruction}\n{audio}"), rows, plan)
    ids = llm.tokenizer(rows[0].text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = llm.model(torch.tensor([[llm.tokenizer.bos_token_id, *ids]])).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids))
    assert found["perplexity"]["trained"]["value"] == pytest.approx(math.exp(nll), rel=1e-4)
