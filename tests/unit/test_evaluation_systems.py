"""Foreign systems: what each is sent, and how answers from elsewhere are read."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from tests.chat_server import Server
from tests.tiny_models import save_llama, spoken_rows
from toolkit.evaluation import DecodePlan
from toolkit.evaluation.exchange import read_answers, write_items
from toolkit.evaluation.systems import (
    EndpointSystem,
    ForeignSystemError,
    HubSystem,
    TextSystem,
    decode_system,
)
from toolkit.llms import CausalLM, Prompt
from toolkit.teachers import Endpoint, InstructionPool
from toolkit.teachers.answers import AnswerStore


@pytest.fixture
def items(tmp_path):
    rows = [replace(r, asr_text=f"heard {r.text}") for r in spoken_rows(tmp_path, 3, "u")]
    plan = DecodePlan({}, pool=InstructionPool(only=["title"]), items_per_task=3)
    return plan.items(rows)


@pytest.fixture
def server():
    started = Server()
    yield started
    started.close()


def test_text_system_is_the_llm_on_either_transcript(items, tmp_path):
    llm = CausalLM(str(save_llama(tmp_path / "llm"))).materialise().eval()
    store = AnswerStore(tmp_path / "answers.jsonl")
    found = {
        reads: decode_system(
            TextSystem(reads, llm, Prompt(), store, reads), items, tmp_path / f"{reads}.jsonl", 8
        )
        for reads in ("text", "asr")
    }
    assert [r["id"] for r in found["asr"]] == [i.id for i in items]
    assert found["text"][0]["transcript"] == items[0].row.text
    assert [r["answer"] for r in found["text"]] != [r["answer"] for r in found["asr"]]
    unheard = replace(items[0], row=replace(items[0].row, asr_text=None))
    with pytest.raises(ForeignSystemError, match="no asr_text.*stage 3"):
        TextSystem("x", llm, Prompt(), store, "asr").answers([unheard], 4)


def described(row):
    return f"[00:00:00 - 00:00:01] {row.text} (Gender: female)"


def test_a_topline_reads_the_description_that_the_run_reads(items, server, tmp_path):
    """But for what is to be repeated, which is the sentence itself."""
    repeat = replace(items[0], repeat=True)
    # The sentences are descriptions already, for systems that are given none.
    told = [replace(i, row=replace(i.row, text=described(i.row))) for i in items]
    llm = CausalLM(str(save_llama(tmp_path / "llm"))).materialise().eval()

    def answer(asked, describe=None):
        store = AnswerStore(tmp_path / "answers.jsonl")
        return TextSystem("text", llm, Prompt(), store, describe=describe).answers(asked, 8)

    own = answer([*items, repeat], described)
    assert own == answer([*told, repeat])
    assert own[:3] != answer(items)
    prompt = Prompt(user="{instruction}\n{audio}")
    system = EndpointSystem(
        "s", Endpoint(server.url), prompt, AnswerStore(tmp_path / "e.jsonl"), "text", described
    )
    for item, text in ((items[0], described(items[0].row)), (repeat, items[0].row.text)):
        assert system.messages(item)[-1]["content"] == f"{item.instruction}\n{text}"


def test_endpoint_gets_the_recording_in_its_slot(items, server, tmp_path):
    endpoint = Endpoint(server.url, backoff=0.01)
    prompt = Prompt(system="Be brief.", user="{instruction}\n{audio}\nAnswer:")
    system = EndpointSystem("s", endpoint, prompt, AnswerStore(tmp_path / "e.jsonl"))
    first, message = system.messages(items[0])
    assert first == {"role": "system", "content": "Be brief."}
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "input_audio", "text"]
    assert message["content"][0]["text"] == items[0].instruction
    assert message["content"][2]["text"] == "Answer:"
    sent = message["content"][1]["input_audio"]
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(sent["data"])), dtype="float32")
    original, _ = soundfile.read(items[0].row.audio, dtype="float32")
    assert sent["format"] == "wav" and rate == 16_000
    assert np.abs(wave - original).max() < 1e-3
    # As text, the slot is filled instead.
    system = EndpointSystem("s", endpoint, Prompt(), AnswerStore(tmp_path / "e.jsonl"), "asr")
    rows = decode_system(system, items, tmp_path / "s.jsonl", 8)
    assert rows[1]["answer"] == f"{items[1].instruction}\nheard {items[1].row.text}".upper()


def test_items_and_answers_travel_by_file(items, tmp_path):
    asked, theirs = tmp_path / "items.jsonl", tmp_path / "theirs.jsonl"
    write_items(asked, items)
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    assert all("transcript" not in line and line["audio"] for line in lines)
    answers = [{"id": line["id"], "answer": f"answer {i}"} for i, line in enumerate(lines)]
    answers[2]["answer"] += "\u2028continued"
    lines = [json.dumps(a, ensure_ascii=False) for a in reversed(answers)]
    theirs.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = read_answers(theirs, items, "theirs")
    assert [r["answer"] for r in rows] == ["answer 0", "answer 1", "answer 2\u2028continued"]
    assert rows[0]["transcript"] == items[0].row.text and rows[0]["input"] == "theirs"
    for text, message in (
        ("{", ":1: not valid JSON"),
        ('{"id": "a", "answer": 1}', ":1: field 'answer'"),
        ('{"id": "a", "answer": "x"}\n{"id": "a", "answer": "y"}', ":2: .*answered before"),
        ('{"id": "a", "answer": "x"}', "3 of 3 items lack one"),
    ):
        theirs.write_text(text)
        with pytest.raises(ForeignSystemError, match=message):
            read_answers(theirs, items, "theirs")


def test_a_text_model_is_no_hub_system(items, tmp_path):
    folder = save_llama(tmp_path / "llm")
    with pytest.raises(ForeignSystemError, match="cascade:SOURCE"):
        HubSystem("x", folder, Prompt(), AnswerStore(tmp_path / "h.jsonl"))


def save_qwen2_audio(folder):
    """A random Qwen2-Audio with a window of two seconds, its processor and its chat template."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    special += ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=special[2], pad_token=special[0],
        extra_special_tokens=special[1:2] + special[3:],
    )  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    transformers.Qwen2AudioProcessor(extractor, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32, "d_model": 16, "max_source_positions": 100,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(vocabulary), "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 2, "initializer_range": 0.3,
        },
        audio_token_index=vocabulary["<|AUDIO|>"],
    )  # fmt: skip
    model = transformers.Qwen2AudioForConditionalGeneration(config)
    model.generation_config.eos_token_id = vocabulary["<|im_end|>"]
    model.generation_config.pad_token_id = vocabulary["<|endoftext|>"]
    model.save_pretrained(folder)
    return folder


def test_hub_system_hears_the_recording(items, tmp_path):
    folder = save_qwen2_audio(tmp_path / "qwen2-audio")
    store = AnswerStore(tmp_path / "hub.jsonl")
    system = HubSystem("hub:a/b", folder, Prompt(), store)
    parts = system.conversation(items[0])[0]["content"]
    assert [part["type"] for part in parts] == ["text", "audio"]
    assert len(parts[1]["audio"]) == round(items[0].row.duration * 16_000)
    answers = system.answers(items, 12)
    assert len(set(answers)) > 1
    # The sound decides, not the name: another recording in place of the first changes its answer.
    other = replace(items[1].row, id=items[0].row.id)
    changed = system.answers([replace(items[0], row=other)], 12)
    assert changed != answers[:1]
    # Answered again from the store, also by a new process.
    again = HubSystem("hub:a/b", folder, Prompt(), AnswerStore(tmp_path / "hub.jsonl"))
    again.model = None
    assert again.answers(items, 12) == answers
