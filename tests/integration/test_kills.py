"""``kill -9`` at chosen moments of every long stage: what goes on makes what a whole run makes."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import copy_until
from test_speech_mapper_stages import OVERRIDES, PAD
from tiny_training import in_process

from toolkit.data.annotation import WhisperTranscriber
from toolkit.data.feature_store import FeatureCache
from toolkit.teachers.answers import AnswerStore
from toolkit.training import SpeechLLMBrain
from toolkit.training.checkpoint import WEIGHTS, read_tensors
from toolkit.training.record import read_lines

RUN = "exp/tiny/mtbi/seed1"
SHARD_BYTES = 20_000


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner: object, name: str, call: int, instead: Callable | None = None) -> None:
    """Make the n-th call of a function the last thing this process does.

    With ``instead`` that call is replaced by something that leaves half of its work behind.
    """
    whole, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(whole)
    def dying(*arguments, **settings):
        last = next(calls) == call
        if last and instead is not None:
            instead(*arguments, **settings)
            die()
        out = whole(*arguments, **settings)
        if last:
            die()
        return out

    setattr(owner, name, dying)


def killed(stages, stage: str, *where, overrides: Sequence[str] = ()) -> None:
    """Run a stage in a process of its own that dies at the given place."""

    def run() -> None:
        die_at(*where)
        stages(stage, stage, overrides)

    assert in_process(run) == [-signal.SIGKILL]
    assert not Path("work", RUN, "marks", f"{stage}.json").exists()


def marks(*names: str) -> list[str]:
    return [f"{RUN}/marks/{name}.json" for name in names]


def entries(folder: Path) -> list[str]:
    texts = [path.read_text() for path in folder.glob("*/*.jsonl")]
    return sorted(line for text in texts for line in text.splitlines())


def test_annotate(finished, tmp_path, stages):
    copy_until(finished, tmp_path, "data", *marks("prepare"))
    killed(stages, "annotate", WhisperTranscriber, "annotate_batch", 2)
    (path,) = Path("work/annotations").glob("*/*.jsonl")
    assert len(path.read_text().splitlines()) == 2
    with path.open("a") as file:  # a write that the kill tore
        file.write('{"audio": "12')
    context = stages("annotate", "annotate")
    facts = json.loads((context.exp / "marks/annotate.json").read_text())["facts"]
    assert facts == {"asr_text": {"already": 2, "annotated": 2}}
    assert entries(Path("work/annotations")) == entries(finished / "work/annotations")


def test_teach(finished, tmp_path, stages):
    def half(store, answers):
        line = json.dumps(list(answers)[0])
        with store.path.open("a") as file:
            file.write(line[: len(line) // 2])

    copy_until(finished, tmp_path, "data", *marks("prepare"))
    killed(stages, "teach", AnswerStore, "add", 4, half)
    answers = Path("work/targets/answers.jsonl").read_text()
    assert answers.count("\n") == 12 and not answers.endswith("\n")
    stages("teach", "teach")
    for name in ("targets.jsonl", "topline.json"):
        assert Path("work", RUN, name).read_text() == (finished / "work" / RUN / name).read_text()


def test_cache(finished, tmp_path, stages, monkeypatch):
    import safetensors.torch

    import toolkit.data.feature_store as module

    # The tiny features would fit one shard: make several.
    small = functools.partial(FeatureCache, shard_bytes=SHARD_BYTES)
    monkeypatch.setattr(module, "FeatureCache", small)
    copy_until(finished, tmp_path, "data", *marks("prepare"))
    killed(stages, "cache", safetensors.torch, "save", 3, lambda pending: None)
    (folder,) = Path("work/cache").iterdir()
    assert len(list(folder.glob("rank0-*.safetensors"))) == 2
    assert len(list(folder.glob(".*.partial"))) == 1
    kept = len((folder / "rank0.jsonl").read_text().splitlines())
    context = stages("cache", "cache")
    facts = json.loads((context.exp / "marks/cache.json").read_text())["facts"]
    assert facts == {"already": kept, "cached": 24 - kept} and 0 < kept < 24
    assert not list(folder.glob(".*.partial"))
    mine, name = context.cache(), folder.name.rpartition("-")
    theirs = FeatureCache(finished / "work/cache", name[0], name[2])
    assert len(mine) == len(theirs) == 24
    for key in mine._index:
        # Other batch mates, so other rounding.
        torch.testing.assert_close(mine.get(key), theirs.get(key), atol=1e-5, rtol=1e-5)


def same_training(one: Path, two: Path) -> None:
    logs = [read_lines(folder / "train_log.jsonl") for folder in (one, two)]
    told = [[(x["step"], x["losses"], x["tasks"]) for x in log] for log in logs]
    assert told[0] == told[1]
    assert read_lines(one / "valid_log.jsonl") == read_lines(two / "valid_log.jsonl")
    mine, theirs = (read_tensors(folder / "best" / WEIGHTS) for folder in (one, two))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    ("phase", "step", "checkpoint"), [("pretrain", 5, 3), ("train", 3, 2), ("train", 1, 0)]
)
def test_training_phases(finished, tmp_path, stages, phase, step, checkpoint):
    before = ["prepare", "annotate", "teach", "cache"]
    parts = ["data", "annotations", "targets", "cache", f"{RUN}/targets.jsonl"]
    if phase == "train":
        before.append("pretrain")
        parts.append(f"{RUN}/pretrain")
    copy_until(finished, tmp_path, *parts, *marks(*before))
    killed(stages, phase, SpeechLLMBrain, "fit_window", step)
    folder = Path("work", RUN, phase)
    saved = [path.name for path in folder.glob("checkpoints/step_*")]
    assert saved == ([f"step_{checkpoint:08d}"] if checkpoint else [])
    stages(phase, phase)
    same_training(folder, finished / "work" / RUN / phase)


def test_both_phases_of_speech_mapper(tmp_path, stages):
    """Its losses draw negatives by the phase's progress: what goes on draws the same ones."""
    contrast = (
        "+phases.pretrain.losses.contrast=!new:toolkit.losses.EmbeddingContrast "
        f"{{pad_token: {PAD}, positions: content, negatives: 8}}"
    )
    overrides = [*OVERRIDES, contrast]
    stages(0, "train", overrides)
    whole = tmp_path / "whole"
    for phase, step in (("pretrain", 5), ("train", 3)):
        folder = Path("work", RUN, phase)
        whole.mkdir(exist_ok=True)
        folder.rename(whole / phase)
        Path("work", RUN, "marks", f"{phase}.json").unlink()
        killed(stages, phase, SpeechLLMBrain, "fit_window", step, overrides=overrides)
        assert list(folder.glob("checkpoints/step_*"))
        stages(phase, phase, overrides)
        same_training(folder, whole / phase)
    assert "contrast" in read_lines(whole / "pretrain" / "train_log.jsonl")[0]["losses"]


def test_decode(finished, tmp_path, stages):
    import toolkit.evaluation.decoding as module

    copy_until(finished, tmp_path, "*")
    for path in Path("work", RUN, "decode").glob("*"):
        path.unlink()
    Path("work", RUN, "marks", "decode.json").unlink()
    # The second batch of the second input, answered and not yet written.
    killed(stages, "decode", module, "decoded_row", 16)
    speech = Path("work", RUN, "decode", "tones.speech.jsonl")
    assert len(speech.read_text().splitlines()) == 3
    stages("decode", "decode")
    for path in sorted((finished / "work" / RUN / "decode").glob("*.jsonl")):
        mine, theirs = ([json.loads(x) for x in p.read_text().splitlines()] for p in (
            Path("work", RUN, "decode", path.name), path))  # fmt: skip
        assert [(x["id"], x["answer"]) for x in mine] == [(x["id"], x["answer"]) for x in theirs]
