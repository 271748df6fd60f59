"""All stages of a DeSTA2 recipe on tiny models: transcript beside the speech, described targets."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from tiny_models import save_llama
from tiny_recipe import own_home, run_in, write_recipe

from tests.public_benchmarks import write_air
from toolkit.cli.main import main
from toolkit.data.audio import read_audio, write_audio
from toolkit.data.manifest import ManifestError
from toolkit.data.targets import read_targets
from toolkit.evaluation import AnchorBiasPlan
from toolkit.evaluation.anchor_bias import measure
from toolkit.inference import SpeechLLM
from toolkit.llms import CausalLM
from toolkit.pipeline.runner import RunOptions, open_run, run
from toolkit.pipeline.table import BY_NAME
from toolkit.projectors import LayerwiseQFormer
from toolkit.segments import Side, Speech
from toolkit.training.checkpoint import WEIGHTS, read_tensors
from toolkit.training.record import read_lines

RUN = Path("work/exp/tiny/desta2/seed1")
INPUTS = ("text", "speech", "asr", "blank", "shuffled", "untrained")
BLOCKS = """
$head
recogniser: !new:toolkit.data.annotation.WhisperTranscriber
    source: !ref <whisper>
    batch_size: 4
    max_new_tokens: 6
voice: !new:toolkit.data.annotation.EnergyVoiceActivity

annotate:
    - annotator: !ref <recogniser>
      manifests:
          - !ref <data>/train.jsonl
          - !ref <data>/dev.jsonl
          - !ref <data>/test.jsonl
    - annotator: !ref <voice>
      manifests: !ref <annotate[0][manifests]>

projector: !new:toolkit.projectors.LayerwiseQFormer
$ends
    num_queries: 4
    num_heads: 2
    ffn_dim: 32

interleaver: !new:toolkit.interleavers.SpeechThenTranscript
    transcript: asr
    annotators: [!ref <recogniser>, !ref <voice>]
    min_speech_seconds: 0.1

llm: !new:toolkit.llms.CausalLM
    source: !ref <llm_source>

prompt: !new:toolkit.llms.Prompt
    user: "{audio}\\n{instruction}"

describe: !new:toolkit.teachers.SeedTranscript
    attributes: [gender, pitch]

teacher: !new:toolkit.teachers.DescriptionTeacher
    manifests:
        - !ref <data>/train.jsonl
        - !ref <data>/dev.jsonl
    pool: !apply:tiny_described.pool
    describe: !ref <describe>
    per_utterance: 4
    max_new_tokens: 12
    batch_size: 4
    topline_items: 2
    check_answers: false

sets:
$taught
phases:
    train: !new:toolkit.training.Phase
        trainable: [projector]
        data: {described: 1.0}
        validation: [described_dev]
        losses:
            response: !new:toolkit.losses.ResponseCrossEntropy {weight: 1.0}
            behaviour: !new:toolkit.losses.BehaviourKL {weight: 0.5}
        optimizer_steps: 4
        validate_every: 2
        batch_items: 4
        lr: 1.0e-2

decode: !new:toolkit.evaluation.DecodePlan
    sets:
        tones: !ref <data>/test.jsonl
    inputs: [speech, text, asr, blank, shuffled, untrained]
    pool: !apply:tiny_described.pool
    describe: !ref <describe>
    items_per_task: 2
    max_new_tokens: 6
    batch_size: 3

$tail
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    save_llama(root / "other_llm", seed=7)
    with own_home(root):
        yield write_recipe(
            root, "desta2", BLOCKS, taught="described", module="tiny_described", data="described",
            layers="evenly:2",
        )  # fmt: skip


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("described"), RunOptions(recipe))


@pytest.fixture
def there(finished, tmp_path, monkeypatch):
    """A copy of the finished run to work in."""
    shutil.copytree(finished / "work", tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_targets_are_answers_to_descriptions(finished):
    targets = lines(finished / RUN / "targets.jsonl")
    counts = json.loads((finished / RUN / "topline.json").read_text())["counts"]
    assert sum(counts.values()) == 64 and counts["kept"] == len(targets) > 6
    for target in targets:
        assert target["reads"].startswith("[00:00:00 - 00:00:01] ")
        assert "(Gender: " in target["reads"] and " Hz (fundamental frequency))" in target["reads"]
    assert all(t.reads for t in read_targets(finished / RUN / "targets.jsonl"))


def test_every_split_is_annotated_and_silence_is_gated(there, recipe):
    context = open_run(RunOptions(recipe))
    for part, count in (("train", 12), ("dev", 4), ("test", 4)):
        rows = context.rows(f"work/data/described/{part}.jsonl")
        assert len(rows) == count and all(row.asr_text is not None for row in rows)
        assert [row.speech_seconds > 0.1 for row in rows] == [True] * (count - 1) + [False]
    model = context.build_model()
    sets = context.config.build("sets")["sets"]
    examples = sets["described"].examples(model.llm.tokenizer, model.prompt, rows=context.rows)
    collator = context.collator(model)
    gated = 0
    for example in examples:
        plan, text_plan = collator.plan(example)
        kinds = [type(s) for s in plan if isinstance(s, Speech | Side)]
        silent = example.row.speech_seconds <= 0.1
        expected = [Speech] if silent or not example.row.asr_text.strip() else [Speech, Side]
        assert kinds == expected
        gated += silent
        read = model.prompt.render(model.llm.tokenizer, example.fields, example.reads)
        assert text_plan == read.as_text()
    assert gated <= 1


def test_only_the_projector_learns_and_its_layer_weights_are_drawn(finished):
    folder = finished / RUN / "train"
    log = read_lines(folder / "train_log.jsonl")
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert all(set(line["losses"]) == {"response", "behaviour"} for line in log)
    assert set(log[0]["lr"]) == {"projector"}
    told = json.loads((folder / "layer_weights.json").read_text())
    weights = torch.tensor(told["weights"])
    assert told["layers"] == ["0", "1"] and weights.shape == (4, 2)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert (weights - 0.5).abs().max() > 1e-4  # learnt
    assert (folder / "curves" / "layer_weights.png").stat().st_size > 1000
    assert "layer_weights" in (finished / RUN.parent / "RESULTS.md").read_text()


def test_decoding_keeps_the_transcript_under_every_control(there, recipe):
    decoded = {kind: lines(RUN / "decode" / f"tones.{kind}.jsonl") for kind in INPUTS}
    assert all(len(rows) == 8 for rows in decoded.values())
    scores = json.loads((RUN / "scores.json").read_text())["sets"]["tones"]
    assert set(scores) == set(INPUTS)
    assert scores["text"]["rouge_l"]["value"] == 1.0
    # The text branch answered to the description, as the teacher did.
    context = open_run(RunOptions(recipe))
    model = context.build_model()
    rows = {row.id: row for row in context.rows("work/data/described/test.jsonl")}
    describe = context.config.build("describe")["describe"]
    pool = context.config.build("decode")["decode"].pool
    for line in decoded["text"][:3]:
        rendered = model.prompt.render(
            model.llm.tokenizer,
            {"instruction": pool.instruction(line["wording"])},
            describe(rows[line["utterance"]]),
        )
        from toolkit.data.example import Batch

        batch = Batch([], [rendered.as_text()], [], [[]])
        assert model.generate(batch, max_new_tokens=6) == [line["answer"]]


def test_a_topline_of_another_llm_reads_the_descriptions_too(there, recipe, capsys):
    system = f"text:{recipe.parents[3] / 'llm'}"
    command = ["score", str(recipe), "--work", "work", "--ngpu", "0", "--system", system]
    assert main(command) == 0, capsys.readouterr().err
    found = json.loads((RUN / "systems" / "scores.json").read_text())["sets"]["tones"]
    # This other LLM is the run's own: it gives the answers of the run's own text branch.
    assert found[system]["rouge_l"]["value"] == pytest.approx(1.0)
    assert found["asr"]["rouge_l"]["value"] < 1.0


def test_chat_hears_transcribes_and_gates_as_decoding_does(there, recipe):
    context = open_run(RunOptions(recipe))
    loaded = SpeechLLM.from_pretrained(RUN / "export")
    spec = json.loads((RUN / "export" / "toolkit.json").read_text())
    assert len(spec["base"]) == 2  # the recogniser is the encoder's other half
    collator = context.collator(loaded.model)
    collator.cache = None
    plan = context.config.build("decode")["decode"]
    rows = context.rows("work/data/described/test.jsonl")
    for row in (rows[0], rows[-1]):
        item = next(i for i in plan.items([row]) if i.task == "speaker")
        batch = collator.for_decoding([item.example()])
        assert any(isinstance(s, Side) for s in batch.plans[0]) == (row is rows[0])
        expected = loaded.model.generate(batch, max_new_tokens=8)[0]
        assert loaded.chat(row.audio, item.instruction, max_new_tokens=8).text == expected
    # Another recording of another length, as users have them.
    path = Path("other.wav")
    write_audio(path, read_audio(rows[0].audio)[:6000])
    assert isinstance(loaded.chat(path, "What is this?", max_new_tokens=4).text, str)


def test_anchor_bias_of_an_export_transcribes_the_clips_it_asks_about(there, recipe, monkeypatch):
    context = open_run(RunOptions(recipe))
    loaded = SpeechLLM.from_pretrained(RUN / "export")
    annotate, annotated = loaded._annotated, []

    def watched(row, wave):
        annotated.append(row.id)
        return annotate(row, wave)

    monkeypatch.setattr(loaded, "_annotated", watched)
    pool = context.config.build("decode")["decode"].pool
    plan = AnchorBiasPlan(clips=2, pool=pool, bands=1, blocking_items=2, max_new_tokens=4)
    manifest = "work/data/described/test.jsonl"
    found = loaded.anchor_bias(manifest, plan)
    assert found["clips"] == len(annotated) == 2
    # What the recipe's annotators wrote beside the manifest is what the export makes by itself.
    rows = [row for row in context.rows(manifest) if row.id in annotated]
    collator = context.collator(loaded.model)
    collator.cache = None
    expected = measure(loaded.model, rows, collator, plan)["attention"]["speech"]["positions"]
    assert found["attention"]["speech"]["positions"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tag", "override"),
    [
        ("last", "encoder.layers=[-1]"),
        ("untranscribed", "interleaver.transcript=none"),
        ("fewer", "projector.num_queries=2"),
        ("gold", "interleaver.transcript=text"),
        ("ungated", "interleaver.min_speech_seconds=0"),
    ],
)
def test_ablations_train_by_one_override(there, recipe, tag, override):
    options = RunOptions(recipe, overrides=[override, "phases.train.optimizer_steps=1"], tag=tag)
    options.stage, options.stop_stage = "teach", "train"
    (context,) = run(options)
    assert (context.exp / "train" / "best").exists()
    weights = context.exp / "train" / "layer_weights.json"
    assert weights.exists() == (tag != "last")


CLIPS = "work/data/public_benchmarks/clips.jsonl"


def test_public_benchmarks_are_transcribed_and_asked_of_a_finished_run(there, recipe):
    """As in recipes/vctk/desta2, whose README gives these two commands."""
    write_air(there / "released")
    chat = f"{{path: released, manifests: [{CLIPS}], max_new_tokens: 4}}"
    prepare = "!name:recipes.public_benchmarks.prepare.prepare"
    manifests = [*(f"work/data/described/{part}.jsonl" for part in ("train", "dev", "test")), CLIPS]
    overrides = [
        f"+benchmarks={{chat: !new:toolkit.evaluation.benchmarks.Chat {chat}}}",
        f"corpora.public_benchmarks={prepare} {{benchmarks: !ref <benchmarks>}}",
        f"annotate.0.manifests=[{', '.join(manifests)}]",
        "decode.benchmarks=!ref <benchmarks>",
    ]
    options = RunOptions(recipe, overrides=overrides, force=True)
    # Nothing has prepared the clips: the model's prompt wants their transcripts.
    options.stage = options.stop_stage = "decode"
    with pytest.raises(ManifestError, match="clips.jsonl.*run the prepare stage first"):
        run(options)
    public = RunOptions(recipe, overrides=overrides, tag="public")
    public.stage, public.stop_stage = "prepare", "annotate"
    run(public)
    before = digest(RUN / "train")
    options.stop_stage = "report"
    (context,) = run(options)
    assert digest(RUN / "train") == before
    assert all(row.asr_text is not None for row in context.rows(CLIPS))
    scores = json.loads((RUN / "scores.json").read_text())["benchmarks"]["chat"]
    assert scores["n"] == 3 and set(scores["agreement"]) == {"speech", "blank"}
    assert "## chat: open questions" in (RUN / "RESULTS.md").read_text()


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


WARM = "{pad_token: <s>, weight: 1.0}"
LINE = (
    "!new:toolkit.data.SpeechSet {manifests: [!ref <data>/%s.jsonl], describe: "
    "!new:toolkit.teachers.SeedTranscript {attributes: [gender], spoken_text: false, "
    "timestamp: false}}"
)
WARM_START = [
    "projector.num_queries=24",
    "+projector.standardise=true",
    "+sets.attributes=" + LINE % "train",
    "+sets.attributes_dev=" + LINE % "dev",
    "+phases.pretrain=!new:toolkit.training.Phase {trainable: [projector], "
    "data: {attributes: 1.0}, validation: [attributes_dev], "
    f"losses: {{distance: !new:toolkit.losses.EmbeddingMSE {WARM}, "
    "contrast: !new:toolkit.losses.EmbeddingContrast {pad_token: <s>, negatives: 8, "
    "words: [male, female]}}, "
    "measures: {tokens: !new:toolkit.losses.EmbeddingMeasures {pad_token: <s>}}, "
    "select: attributes_dev/tokens/wer, optimizer_steps: 30, validate_every: 30, batch_items: 8, "
    "lr: 1.0e-2}",
]


def test_a_warm_start_writes_the_attributes_without_the_llm(there, recipe, monkeypatch):
    built = []
    build = CausalLM._build
    monkeypatch.setattr(CausalLM, "_build", lambda *a: (built.append(a[0]), build(*a))[1])
    fitted, fit = [], LayerwiseQFormer.fit_frames
    monkeypatch.setattr(
        LayerwiseQFormer, "fit_frames", lambda *a: (fitted.append(a[0]), fit(*a))[1]
    )
    options = RunOptions(recipe, overrides=WARM_START, tag="warm")
    options.stage, options.stop_stage = "cache", "pretrain"
    (context,) = run(options)
    assert not built
    log = read_lines(context.exp / "pretrain" / "train_log.jsonl")
    assert log[-1]["losses"]["distance"] < 0.5 * log[0]["losses"]["distance"]
    # Every clip, silence too, has a line as long as the others': gender and what stands around it.
    told = read_lines(context.exp / "pretrain" / "valid_log.jsonl")[-1]["metrics"]
    assert told["attributes_dev/tokens/boundary"] == 0
    assert told["attributes_dev/tokens/accuracy"] > 0.8
    # The frames' statistics are in the checkpoint, of these clips and of no others.
    tensors = read_tensors(context.exp / "pretrain" / "best" / WEIGHTS)
    cache, rows = context.cache(), context.rows("work/data/described/train.jsonl")
    frames = torch.cat([cache.get(row.audio_key()).double() for row in rows], 1)
    torch.testing.assert_close(
        tensors["projector.frame_mean"].double(), frames.mean(1, keepdim=True), atol=1e-4, rtol=1e-4
    )
    scaled = frames.var(1, correction=0, keepdim=True) * tensors["projector.frame_scale"] ** 2
    assert (scaled - 1).abs().median() < 1e-2
    options = RunOptions(recipe, overrides=WARM_START, tag="warm")
    options.stage, options.stop_stage = "teach", "train"
    (context,) = run(options)
    assert built and (context.exp / "train" / "best").exists()
    # The main phase starts from weights that were fitted.
    assert len(fitted) == 1
    # They are still these when the model leaves: what is loaded gives the trained one's vectors.
    options.stage = options.stop_stage = "export"
    run(options)
    exported = SpeechLLM.from_pretrained(context.exp / "export").model
    trained = context.build_model()
    context.load_trained(trained)
    for name in ("frame_mean", "frame_scale"):
        assert torch.equal(getattr(exported.projector, name), tensors[f"projector.{name}"])
    clip = cache.get(rows[0].audio_key())[None].float()
    lengths = torch.tensor([clip.shape[2]])
    with torch.no_grad():
        vectors = [model.projector(clip, lengths).vectors for model in (exported, trained)]
    assert torch.equal(*vectors)


def test_what_annotators_may_have_found_out_is_an_input_of_the_warm_start(there, recipe):
    """Only where a set describes rows: another recogniser is no reason to pretrain again."""
    plain = open_run(RunOptions(recipe))
    assert BY_NAME["pretrain"].inputs(plain.config) == ("prepare",)
    described = open_run(RunOptions(recipe, overrides=WARM_START, tag="warm"))
    assert BY_NAME["pretrain"].inputs(described.config) == ("prepare", "annotate")


def test_fewer_queries_than_tokens_are_refused_by_count(there, recipe):
    options = RunOptions(recipe, overrides=[*WARM_START, "projector.num_queries=2"], tag="few")
    options.stage, options.stop_stage = "cache", "pretrain"
    with pytest.raises(RuntimeError, match="more_tokens_than_vectors"):
        run(options)


def test_targets_of_another_llm_are_in_the_backbones_tokens(there, recipe):
    other = recipe.parents[3] / "other_llm"
    override = f"teacher.llm=!new:toolkit.llms.CausalLM {{source: {other}}}"
    options = RunOptions(recipe, overrides=[override], tag="other")
    options.stage = options.stop_stage = "teach"
    (context,) = run(options)
    targets = lines(context.exp / "targets.jsonl")
    own = {t["id"]: t for t in lines(RUN / "targets.jsonl")}
    assert {t["source"] for t in targets}.isdisjoint({t["source"] for t in own.values()})
    shared = [t for t in targets if t["id"] in own]
    assert shared and any(t["response"] != own[t["id"]]["response"] for t in shared)
    tokenizer = context.config.build("llm")["llm"].tokenizer
    for target in targets:
        decoded = tokenizer.decode(target["response_ids"], skip_special_tokens=True)
        assert decoded.strip() == target["response"]
