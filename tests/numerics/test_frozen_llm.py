"""A frozen LLM is the published one, bit for bit, after DeSTA2's training and through an export."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_models import MAX_SECONDS, WORDS, save_llama, save_whisper, spoken_rows  # noqa: E402

from toolkit.data.collate import Collator  # noqa: E402
from toolkit.data.example import Batch, Example  # noqa: E402
from toolkit.encoders import WhisperEncoder  # noqa: E402
from toolkit.inference import SpeechLLM as Loaded  # noqa: E402
from toolkit.inference.export import export  # noqa: E402
from toolkit.interleavers import SpeechThenTranscript, assemble  # noqa: E402
from toolkit.llms import CausalLM, Prompt  # noqa: E402
from toolkit.losses import BehaviourKL, ResponseCrossEntropy  # noqa: E402
from toolkit.models import SpeechLLM  # noqa: E402
from toolkit.projectors import LayerwiseQFormer  # noqa: E402
from toolkit.segments import Response  # noqa: E402
from toolkit.training import Phase, SpeechLLMBrain  # noqa: E402
from toolkit.training.record import read_lines  # noqa: E402

USER = "{audio}\n{instruction}"
STEPS = 30


def digest(module: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def questions(model: SpeechLLM) -> list[list]:
    """Text prompts, with and without a description in the slot."""
    rendered = [
        model.prompt.render(model.llm.tokenizer, {"instruction": f"Press {word}?"}, read)
        for word in WORDS[:3]
        for read in ("", "[00:00:00 - 00:00:01] star (Gender: male)")
    ]
    return [list(prompt.as_text()) for prompt in rendered]


@torch.inference_mode()
def text_behaviour(model: SpeechLLM) -> tuple[torch.Tensor, list[str]]:
    """Logits of an answer to each question, and the LLM's own answers."""
    plans = questions(model)
    ids = tuple(model.llm.tokenizer("leave a message", add_special_tokens=False)["input_ids"])
    inputs = assemble(
        [[*plan, Response(ids)] for plan in plans], [[] for _ in plans], model.llm.embed
    )
    logits = model.llm.logits(model.llm.states(inputs))
    answers = model.generate(Batch([], plans, [], [[] for _ in plans]), max_new_tokens=8)
    return logits, answers


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("frozen")
    whisper, llama = str(save_whisper(root / "whisper")), str(save_llama(root / "llm"))
    encoder, llm = (
        WhisperEncoder(whisper, layers="evenly:2", max_seconds=MAX_SECONDS),
        CausalLM(llama),
    )
    shape = {
        "input_dim": encoder.dim, "output_dim": llm.dim, "input_layers": encoder.num_layers,
        "frame_rate": encoder.frame_rate, "num_queries": 4, "num_heads": 2, "ffn_dim": 32,
        "standardise": True,
    }  # fmt: skip
    said = {"transcript": "text", "missing": "empty"}
    model = SpeechLLM(
        encoder, LayerwiseQFormer(**shape), SpeechThenTranscript(**said), llm, Prompt(USER)
    )
    torch.manual_seed(0)
    for block in (model.projector, encoder, llm):
        block.materialise().requires_grad_(False)
    model.eval()
    examples = []
    for row, word in zip(spoken_rows(root / "tones", 4, "u", seed=3), WORDS, strict=False):
        ids = llm.tokenizer(f"{row.text} {word}", add_special_tokens=False)["input_ids"]
        response = (*ids, *model.prompt.end_ids(llm.tokenizer))
        fields, reads = {"instruction": "What is this?"}, f"{row.text} (Gender: {word})"
        examples.append(Example(row, "description", fields, response, reads=reads))
    phase = Phase(
        ["projector"], {"a": 1.0},
        {"response": ResponseCrossEntropy(), "behaviour": BehaviourKL(0.5)},
        optimizer_steps=STEPS, batch_items=4, lr=1e-2, warmup_steps=2,
    )  # fmt: skip
    collator = Collator(model.prompt, model.interleaver, llm.tokenizer)
    # As the pipeline does before the first phase.
    with torch.no_grad():
        heard = model.encode(collator(examples)[0])
    clips = zip(heard.frames, heard.lengths, strict=True)
    model.projector.fit_frames(frames[:, : int(n)] for frames, n in clips)
    before = {
        "llm": digest(llm), "encoder": digest(encoder), "projector": digest(model.projector),
        "text": text_behaviour(model),
    }  # fmt: skip
    SpeechLLMBrain(
        model, phase, {"a": examples}, {}, collator, root / "run", seed=0, log_every=1,
        progress_bar=False,
    ).fit()  # fmt: skip
    specs = {
        "encoder": {
            "class": "toolkit.encoders.WhisperEncoder",
            "arguments": {"source": whisper, "layers": "evenly:2", "max_seconds": MAX_SECONDS},
        },
        "projector": {"class": "toolkit.projectors.LayerwiseQFormer", "arguments": shape},
        "interleaver": {
            "class": "toolkit.interleavers.SpeechThenTranscript", "arguments": said
        },
        "llm": {"class": "toolkit.llms.CausalLM", "arguments": {"source": llama}},
        "prompt": {"class": "toolkit.llms.Prompt", "arguments": {"user": USER}},
    }  # fmt: skip
    return model.eval(), before, root, specs, collator(examples)[0]


def test_training_moved_the_projector_and_nothing_else(trained) -> None:
    model, before, root, *_ = trained
    log = read_lines(root / "run" / "train_log.jsonl")
    assert log[-1]["losses"]["response"] < log[0]["losses"]["response"]
    assert digest(model.projector) != before["projector"]
    assert digest(model.llm) == before["llm"] and digest(model.encoder) == before["encoder"]
    assert all(p.grad is None for p in model.llm.parameters())


def test_the_llm_reads_text_as_before(trained) -> None:
    model, (logits, answers) = trained[0], trained[1]["text"]
    found, said = text_behaviour(model)
    assert torch.equal(found, logits) and said == answers
    assert len(set(answers)) > 1  # answers that depend on the question


def test_an_export_has_the_published_llm(trained) -> None:
    model, before, root, specs, _ = trained
    loaded = Loaded.from_pretrained(export(model, specs, {}, root / "export"))
    assert digest(loaded.model.llm) == before["llm"] and not loaded.trained_llm
    assert digest(loaded.model.projector) == digest(model.projector)
    logits, answers = text_behaviour(loaded.model)
    assert torch.equal(logits, before["text"][0]) and answers == before["text"][1]


@torch.no_grad()
def test_an_export_gives_the_trained_models_vectors(trained) -> None:
    """Also where the projector stands on statistics of the frames: they travel with it."""
    model, _, root, specs, batch = trained
    loaded = Loaded.from_pretrained(export(model, specs, {}, root / "vectors")).model
    vectors, exported = (m.project(m.encode(batch)).vectors for m in (model, loaded))
    assert torch.equal(exported, vectors) and len(vectors.unique(dim=0)) == len(vectors)
    # The projector as its constructor leaves it has seen no frames.
    fresh = LayerwiseQFormer(**specs["projector"]["arguments"]).materialise()
    assert torch.equal(fresh.frame_scale, torch.ones_like(fresh.frame_scale))
    for statistic in ("frame_mean", "frame_scale"):
        own = getattr(loaded.projector, statistic)
        assert torch.equal(own, getattr(model.projector, statistic))
        assert not torch.equal(own, getattr(fresh, statistic))
