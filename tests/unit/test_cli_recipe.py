"""show, preview and bench on a tiny recipe with random weights and real code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.bench import TrainingStep, markdown, measure, variants
from toolkit.bench.rules import RULES, Rules
from toolkit.bench.step import all_positions, every_frame, fixed_window
from toolkit.cli.main import main
from toolkit.cli.preview import preview
from toolkit.cli.show import describe
from toolkit.data.collate import Collator
from toolkit.data.manifest import Row, write_manifest
from toolkit.data.sets import TranscriptionSet
from toolkit.encoders.base import EncoderOutput
from toolkit.pipeline.costs import on_meta
from toolkit.pipeline.runner import RunOptions, open_run
from toolkit.projectors import CTCEmbedding

TEXTS = ("hello there", "say one two", "one two three hello", "two there")

RECIPE = """
seed: 1
work: work
exp: work/exp
encoder: !new:toolkit.encoders.WhisperEncoder {{source: {whisper}}}
llm: !new:toolkit.llms.CausalLM {{source: {llm}}}
projector: !new:toolkit.projectors.ConvAdapter
    input_dim: !ref <encoder.dim>
    output_dim: !ref <llm.dim>
interleaver: !new:toolkit.interleavers.SpeechOnly {{}}
prompt: !new:toolkit.llms.Prompt {{user: "{{instruction}}\\n{{audio}}"}}
sets:
    said: !new:toolkit.data.sets.TranscriptionSet
        manifests: [!ref <work>/data/train.jsonl]
        instructions: ["say one"]
    described: !new:toolkit.data.sets.SpeechSet
        manifests: [!ref <work>/data/train.jsonl]
        describe: !new:toolkit.teachers.SeedTranscript {{attributes: [language]}}
phases:
    train: !new:toolkit.training.phase.Phase
        trainable: [projector]
        data: {{said: 1.0}}
        losses: {{response: !new:toolkit.losses.ResponseCrossEntropy {{}}}}
        optimizer_steps: 7
"""


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {
        token: i
        for i, token in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    core = Tokenizer(models.BPE(vocab, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    import soundfile
    import transformers

    root = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    whisper = transformers.WhisperConfig(
        vocab_size=8, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperModel(whisper).save_pretrained(root / "whisper")
    llama = transformers.LlamaConfig(
        vocab_size=260, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(llama).save_pretrained(root / "llm")
    _save_tokenizer(root / "llm")
    rng = np.random.default_rng(0)
    rows = []
    for i, text in enumerate(TEXTS):
        path = root / "work/data" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, 4000 * (4 - i)), 16000)
        rows.append(Row(f"u{i}", str(path), 0.25 * (4 - i), text, "en", "s"))
    write_manifest(root / "work/data/train.jsonl", rows)
    path = root / "recipes/corpus/method/train.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(RECIPE.format(whisper=root / "whisper", llm=root / "llm"))
    return path


@pytest.fixture
def context(recipe):
    before = list(sys.path)
    yield open_run(RunOptions(recipe, work=recipe.parents[3] / "work"))
    sys.path[:] = before


def test_show_needs_no_weights(recipe, context, tmp_path, monkeypatch):
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    hidden = [recipe.parents[3] / name / "model.safetensors" for name in ("whisper", "llm")]
    for file in hidden:
        file.rename(file.with_suffix(".away"))
    try:
        text = describe(context)
        model = on_meta(context)
    finally:
        for file in hidden:
            file.with_suffix(".away").rename(file)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert "corpus/method" in text
    # 10 s of audio are 500 frames of width 16.
    assert "(1, 1, 500, 16)" in text and "50 frames/s" in text
    parameters = f"{sum(p.numel() for p in model.projector.parameters()):,}"
    trained = next(line for line in text.splitlines() if line.startswith("| train"))
    cells = [cell.strip() for cell in trained.strip("|").split("|")]
    assert cells == ["train", "projector", parameters, "response x 1", "logits", "yes", "7"]


def test_show_of_the_shipped_recipe_with_an_empty_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    shipped = Path(__file__).resolve().parents[2] / "recipes/asterisk_sounds/mtbi/train.yaml"
    assert main(["show", str(shipped)]) == 0
    out = capsys.readouterr().out
    assert "134,515,008" in out and "8,208,384" in out
    pretrain = next(line for line in out.splitlines() if line.startswith("| pretrain"))
    assert "| no " in pretrain
    assert list(tmp_path.iterdir()) == []


def test_show_counts_the_cost_of_a_prepared_corpus(context):
    text = describe(context, tflops=2.0, gpus=4)
    cells = next(line for line in text.splitlines() if "manifests" in line).strip("|").split("|")
    # The phase sets no batch limit, so 16 items; the corpus has four.
    assert [cell.strip() for cell in cells[1:4]] == [
        "4 / 0.0 h (manifests)", "16 x 1", "7 (28.0 passes)",
    ]  # fmt: skip
    assert "4 device(s) that sustain 2 Tflop/s each" in text and cells[6].strip() == "off"


def test_show_of_the_paper_scale_recipe_with_an_empty_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    recipe = Path(__file__).resolve().parents[2] / "recipes/librispeech/mtbi/train.yaml"
    command = ["show", str(recipe), "--tflops", "200", "--gpus", "8", f"work={tmp_path}"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "# librispeech/mtbi (config-checked)" in out and "8,030,261,248" in out
    # 961 h x 3600 s x 50 frames x 1280 x 2 bytes.
    assert "412.4 GiB" in out and "281,241 / 961.0 h (expected)" in out
    assert list(tmp_path.iterdir()) == []
    assert main(["show", str(recipe), "--gpus", "0"]) == 1
    assert "positive" in capsys.readouterr().err


def test_preview_prints_what_the_llm_reads(context):
    text = preview(context, None, 1, colours=False)
    assert "set said: 4 examples" in text
    assert "\x1b" not in text
    row = next(r for r in context.rows(context.manifests()[0]) if r.id in text)
    assert f"<speech 0.00-{row.duration:.2f} s>" in text
    assert f"[{row.text}</s>]" in text
    assert f"target: {row.text}" in text and "aims:" not in text
    coloured = preview(context, "said", 1, colours=True)
    assert f"\x1b[32m[{row.text}</s>]\x1b[0m" in coloured
    # What losses on the transcript aim at, where it is something else.
    described = preview(context, "described", 1, colours=False)
    row = next(r for r in context.rows(context.manifests()[0]) if r.id in described)
    told = f"[00:00:00 - 00:00:01] {row.text} (Language: en)"
    assert f"transcript: {row.text}\naims: {told}\n" in described
    with pytest.raises(KeyError, match="sets has no 'sad'; it has said, described"):
        preview(context, "sad", 1, colours=False)


def test_variants_add_and_remove_each_rule():
    chosen = variants(RULES)
    assert chosen["baseline"] == Rules()
    assert chosen[f"+ {RULES[-1]}"] == Rules(**dict.fromkeys(RULES, True))
    # Without the last rule is what stood before it was added.
    assert len(chosen) == 1 + len(RULES) + len(RULES) - 1
    assert len(set(chosen.values())) == len(chosen)


@pytest.fixture
def step(context):
    model = context.build_model()
    model.projector.requires_grad_(True)
    plain = Collator(model.prompt, model.interleaver, model.llm.tokenizer, seed=0)
    return TrainingStep(model, plain)


@pytest.fixture
def examples(context, step):
    manifest = context.manifests()[0]
    said = TranscriptionSet([manifest], ["say one"])
    return said.examples(step.model.llm.tokenizer, step.model.prompt)


def test_rules_of_the_llm_change_neither_loss_nor_gradients(step, examples):
    results, gradients = [], []
    for logits in (False, True):
        for prefix in (False, True):
            rules = Rules(
                true_length=True, text_rate=True, label_logits=logits, shared_prefix=prefix
            )
            results.append(step(examples, rules))
            gradients.append([p.grad.clone() for p in step.model.projector.parameters()])
    assert results[0].loss > 1.0
    assert any(float(g.abs().sum()) > 0 for g in gradients[0])
    for result, gradient in zip(results[1:], gradients[1:], strict=True):
        assert result.loss == pytest.approx(results[0].loss, rel=1e-5)
        for a, b in zip(gradients[0], gradient, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_split_backward_equals_the_librarys_own(step, examples):
    rules = Rules(true_length=True, label_logits=True, shared_prefix=True)
    result = step(examples, rules)
    split = [p.grad.clone() for p in step.model.projector.parameters()]
    batch, _ = step.plain(examples)
    step.model.projector.zero_grad()
    out = step.model(batch, frozenset({"logits"}))
    loss = torch.nn.functional.cross_entropy(out.logits, out.labels, reduction="sum")
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)
    for a, p in zip(split, step.model.projector.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-6)


def test_all_positions_ask_for_every_state(step, examples):
    batch, _ = step.plain(examples)
    model = step.model
    speech = model.speech_vectors(batch, encoded := model.encode(batch), model.project(encoded))
    assembled = model.assemble(batch.plans, speech)
    rows, width = assembled.labels.shape
    everywhere, targets = all_positions(assembled)
    assert targets.shape == (rows * (width - 1),)
    assert int((targets != -100).sum()) == len(assembled.label_ids())
    assert len(model.llm.states(everywhere, use_prefix=False)) == rows * (width - 1)


def test_fixed_window_is_transformers_own_path(step, examples):
    from transformers import WhisperFeatureExtractor, WhisperModel

    batch, _ = step.plain(examples[:2])
    frames = fixed_window(step.model.encoder, batch)
    waves = [w[:n].numpy() for w, n in zip(batch.waveforms, batch.wave_lengths, strict=True)]
    features = WhisperFeatureExtractor()(waves, sampling_rate=16000, return_tensors="pt")
    reference = WhisperModel.from_pretrained(step.model.encoder.source).encoder
    with torch.no_grad():
        expected = reference(features.input_features).last_hidden_state
    assert frames.lengths.tolist() == [expected.shape[1]] * 2
    torch.testing.assert_close(frames.frames[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_every_frame_is_the_projector_without_compression(tmp_path):
    from safetensors.torch import save_file

    table = torch.randn(10, 6)
    (tmp_path / "config.json").write_text("{}")
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    projector = CTCEmbedding(
        4, 6, str(tmp_path), hidden_dim=8, num_heads=2, vocabulary=[3, 7], strides=[2]
    )
    projector.materialise().eval()
    encoded = EncoderOutput(torch.randn(1, 1, 9, 4), torch.tensor([9]))
    out = every_frame(projector, encoded)
    probs = out.aux["ctc_log_probs"].exp()[..., 1:]
    expected = probs / probs.sum(-1, keepdim=True) @ table[[3, 7]]
    torch.testing.assert_close(out.vectors, expected)
    assert out.lengths.tolist() == [5]
    assert out.times[0, -1].tolist() == pytest.approx([0.16, 0.18])


def test_bench_measures_all_variants_on_the_same_work(context):
    result = measure(context, utterances=4, repeats=1, batch_size=2)
    rows = result["variants"]
    assert json.loads((context.work / "bench.json").read_text())["utterances"] == 4
    assert rows["baseline"]["ratio"] == 1.0
    # The window's padding makes vectors too.
    made = {name: row["vectors_per_second"] for name, row in rows.items()}
    assert made["baseline"] > made["+ true_length"] == made["+ length_buckets"]
    assert result["not_applicable"][0] == "text_rate"  # no CTC in this recipe
    for row in rows.values():
        assert sum(row["share"].values()) == pytest.approx(1.0)
        assert 0.0 <= row["padding"] < 1.0
        assert row["audio_per_second"] == pytest.approx(result["audio_seconds"] / row["seconds"])
    # The manifest runs from long to short, so sorting cannot pad more.
    assert rows["+ length_buckets"]["padding"] <= rows["+ true_length"]["padding"]
    exact = [rows[n]["loss"] for n in ("+ true_length", "+ label_logits", "+ shared_prefix")]
    assert exact == pytest.approx([exact[0]] * 3, rel=1e-4)
    text = markdown(result)
    assert "all - true_length" in text and "untrained weights" in text


def test_chat_answers_and_shows_the_text_branch(recipe, context, tmp_path, capsys):
    from toolkit.inference import SpeechLLM, export
    from toolkit.inference.export import BLOCKS

    model = context.build_model()
    specs = {block: context.config.class_spec(block) for block in BLOCKS}
    folder = export(model, specs, {}, tmp_path / "exp/corpus/method/seed1/export")
    wav = str(recipe.parents[3] / "work/data/0.wav")
    arguments = ["chat", wav, "say one", "--text", "hello there", "--max-new-tokens", "5"]
    assert main([*arguments, "--work", str(tmp_path), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    loaded = SpeechLLM.from_pretrained(folder)
    answer, branch = out.split(
        "\nthe same LLM, reading the transcript (as given: 'hello there'):\n"
    )
    assert answer.strip() == loaded.chat(wav, "say one", max_new_tokens=5).text
    assert branch.strip() == loaded.answer_text("hello there", "say one", 5)
