"""What decoded rows say about an answer's end, and which tokens are scored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny_models import MAX_SECONDS, save_llama, save_whisper, spoken_rows
from toolkit.data.collate import Collator
from toolkit.encoders import WhisperEncoder
from toolkit.evaluation import DecodePlan
from toolkit.evaluation.decoding import Inputs, decode, read_decoded, response_ids
from toolkit.evaluation.text_branch import TextBranch
from toolkit.interleavers import SpeechOnly
from toolkit.llms import CausalLM, Prompt
from toolkit.models import SpeechLLM
from toolkit.projectors import WindowQFormer
from toolkit.teachers import InstructionPool


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SpeechLLM:
    root = tmp_path_factory.mktemp("models")
    encoder = WhisperEncoder(str(save_whisper(root / "whisper")), max_seconds=MAX_SECONDS)
    llm = CausalLM(str(save_llama(root / "llm")))
    projector = WindowQFormer(
        encoder.dim, llm.dim, hidden_dim=16, num_heads=2, ffn_dim=24, frame_rate=encoder.frame_rate
    )
    torch.manual_seed(0)
    for block in (projector, encoder, llm):
        block.materialise().requires_grad_(False)
    return SpeechLLM(encoder, projector, SpeechOnly(), llm, Prompt()).eval()


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    rows = spoken_rows(tmp_path_factory.mktemp("tones"), 4, "u", seed=3)
    pool = InstructionPool(only=["title", "keywords", "reply"])
    return DecodePlan({}, pool=pool, items_per_task=4).items(rows)


def inputs(model, kind) -> Inputs:
    return Inputs(Collator(model.prompt, model.interleaver, model.llm.tokenizer), kind)


def told(rows) -> dict[str, dict]:
    return {row["id"]: row for row in rows}


def test_an_answer_that_was_cut_has_no_end_to_score(model, items, tmp_path):
    tokenizer = model.llm.tokenizer
    end = len(model.prompt.end_ids(tokenizer))
    text = inputs(model, "text")
    whole = decode(model, text, items, tmp_path / "whole.jsonl", max_new_tokens=60)
    cut = decode(model, text, items, tmp_path / "cut.jsonl", max_new_tokens=2)
    ended = told(row for row in whole if row["finish"] == "stop")
    assert ended and any(row["finish"] == "length" for row in cut)
    for row in (*whole, *cut):
        size = len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"])
        chosen = row["finish"] == "stop" or not size
        assert row["tokens"] == size + end * chosen
    # What ends by itself within two tokens does so whatever the limit.
    assert {row["id"] for row in cut if row["finish"] == "stop"} <= ended.keys()
    # Speech is scored on the very tokens that the text branch said, its end or none.
    for rows, name in ((whole, "a"), (cut, "b")):
        heard = decode(
            model, inputs(model, "speech"), items, tmp_path / f"{name}.jsonl", told(rows), 3
        )
        assert [row["tokens"] for row in heard] == [row["tokens"] for row in rows]
    # The end of a cut answer would have cost more.
    row = next(row for row in cut if row["finish"] == "length" and row["answer"])
    item = next(item for item in items if item.id == row["id"])
    for finish in ("length", "stop"):
        ids = response_ids(model, row["answer"], finish)
        scored = model.response_nll(text.batch([item], [ids]))[0]
        assert (row["nll"] == pytest.approx(scored, abs=1e-3)) == (finish == "length")


def test_a_killed_run_goes_on_with_the_ends_it_had(model, items, tmp_path):
    path = tmp_path / "tones.jsonl"
    text = inputs(model, "text")
    first = decode(model, text, items, path, max_new_tokens=4, batch_size=2)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])
    again = decode(model, text, items, path, max_new_tokens=4, batch_size=2)
    keys = ("id", "answer", "finish", "tokens")
    assert [[row[k] for k in keys] for row in again] == [[row[k] for k in keys] for row in first]


def test_responses_have_at_least_one_token(model):
    end = tuple(model.prompt.end_ids(model.llm.tokenizer))
    ids = tuple(model.llm.tokenizer("press one", add_special_tokens=False)["input_ids"])
    assert response_ids(model, "press one") == (*ids, *end)
    assert response_ids(model, "press one", "length") == ids
    # Nothing but blanks was said within the limit.
    assert response_ids(model, "", "length") == response_ids(model, "", "stop") == end


def test_texts_are_read_once_for_all_runs(model, items, tmp_path, monkeypatch):
    read = []
    whole = SpeechLLM.answer_and_score

    def noting(self, batch, *rest):
        read.append(len(batch.plans))
        return whole(self, batch, *rest)

    monkeypatch.setattr(SpeechLLM, "answer_and_score", noting)

    def run(folder, kind="text", references=None, limit=4):
        """Decode in a folder of its own, as another process would; what the LLM had to read."""
        read.clear()
        branch = TextBranch(tmp_path / "text_branch.jsonl")
        path = tmp_path / folder / f"{kind}.jsonl"
        rows = decode(model, inputs(model, kind), items, path, references, limit, 5, branch=branch)
        assert [row["id"] for row in rows] == [item.id for item in items]
        assert told(read_decoded(path)) == told(rows)
        return rows, sum(read)

    first, asked = run("a")
    assert asked == len(items)
    again, asked = run("b")
    assert asked == 0 and again == first
    # Another limit, or another answer to be scored, is another question.
    assert run("c", limit=3)[1] == len(items)
    items = [replace(item, row=replace(item.row, asr_text="so to say")) for item in items]
    _, asked = run("a", "asr", told(first))
    assert asked == len(items) and run("b", "asr", told(first))[1] == 0
    other = {row["id"]: {**row, "answer": "press nine"} for row in first}
    scored, asked = run("d", "asr", other)
    assert asked == len(items)
    assert {row["tokens"] for row in scored} == {len(response_ids(model, "press nine"))} | {
        len(response_ids(model, "press nine", "length"))
    }
    # What is heard depends on who listens.
    assert run("a", "speech")[1] == run("b", "speech")[1] == len(items)


def test_half_of_the_texts_known(model, items, tmp_path):
    path = tmp_path / "text_branch.jsonl"
    text = inputs(model, "text")
    few = decode(model, text, items[::2], tmp_path / "few.jsonl", None, 4, branch=TextBranch(path))
    whole = decode(model, text, items, tmp_path / "all.jsonl", None, 4, branch=TextBranch(path))
    assert [row["id"] for row in whole] == [item.id for item in items]
    assert [row for row in whole if row["id"] in told(few)] == few
    assert len(path.read_text().splitlines()) == len(items)
