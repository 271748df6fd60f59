"""A recipe as small as one can be: random models, 24 tones, all stages, seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_recipe import own_home, run_in, write_recipe

from toolkit.pipeline.context import RunContext
from toolkit.pipeline.runner import RunOptions, run

BLOCKS = """
$head
annotate:
    - annotator: !new:toolkit.data.annotation.WhisperTranscriber
          source: !ref <whisper>
          batch_size: 2
          max_new_tokens: 6
      manifests: [!ref <data>/test.jsonl]

projector: !new:toolkit.projectors.CTCEmbedding
$ends
    embeddings: !ref <llm_source>
    hidden_dim: 16
    num_layers: 1
    num_heads: 2
    ffn_dim: 32
    strides: [2]

interleaver: !new:toolkit.interleavers.WordSpans
    speech_ratio: [0.3, 0.9]
    policy: geometric
    mean_span: 2
    probability: 0.5
    missing: speech

llm: !new:toolkit.llms.CausalLM
    source: !ref <llm_source>

prompt: !new:toolkit.llms.Prompt
    user: "{instruction}\\n{audio}"

pool: !new:toolkit.teachers.InstructionPool
    only: [repetition, continuation, title, reply]

teacher: !new:toolkit.teachers.BehaviourTeacher
    manifests:
        - !ref <data>/train.jsonl
        - !ref <data>/dev.jsonl
    pool: !ref <pool>
    per_utterance: 2
    max_new_tokens: 10
    batch_size: 4
    topline_items: 4

sets:
    paired: !new:toolkit.data.SpeechSet
        manifests: [!ref <data>/train.jsonl]
    paired_dev: !new:toolkit.data.SpeechSet
        manifests: [!ref <data>/dev.jsonl]
$taught
phases:
    pretrain: !new:toolkit.training.Phase
        trainable: [projector]
        data: {paired: 1.0}
        validation: [paired_dev]
        losses:
            ctc: !new:toolkit.losses.EmbeddingCTC {weight: 1.0}
        optimizer_steps: 6
        validate_every: 3
        batch_items: 4
        lr: 1.0e-2
    train: !new:toolkit.training.Phase
        trainable: [projector]
        data: {imitation: 1.0}
        validation: [imitation_dev]
        losses:
            response: !new:toolkit.losses.ResponseCrossEntropy {weight: 1.0}
            behaviour: !new:toolkit.losses.BehaviourKL {weight: 0.5}
            ctc: !new:toolkit.losses.EmbeddingCTC {weight: 0.3}
        optimizer_steps: 4
        validate_every: 2
        batch_items: 4
        lr: 1.0e-3

decode: !new:toolkit.evaluation.DecodePlan
    sets:
        tones: !ref <data>/test.jsonl
    inputs: [speech, text, asr, blank, shuffled, untrained]
    pool: !ref <pool>
    items_per_task: 2
    max_new_tokens: 6
    batch_size: 3

$tail
quick:
    phases:
        pretrain: {optimizer_steps: 1, validate_every: 1}
"""


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The recipe's YAML, with its models and a user's module, and a home of weights of its own."""
    root = tmp_path_factory.mktemp("root")
    with own_home(root):
        yield write_recipe(root, "mtbi", BLOCKS, taught="imitation")


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which all stages ran once, below ``work``. Tests copy it, they do not change it."""
    return run_in(tmp_path_factory.mktemp("finished"), RunOptions(recipe))


@pytest.fixture
def stages(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunContext]:
    """Runs stages of the recipe below ``tmp_path/work``; settings name no absolute path."""
    monkeypatch.chdir(tmp_path)

    def start(first="0", last="11", overrides=(), recipe=recipe, **options) -> RunContext:
        chosen = RunOptions(
            recipe, overrides=list(overrides), stage=str(first), stop_stage=str(last), **options
        )
        return run(chosen)[0]

    return start


def copy_until(finished: Path, folder: Path, *parts: str) -> None:
    """Copy parts of a finished run's work folder, e.g. ``"data"`` or ``"exp/tiny/mtbi/*"``."""
    for part in parts:
        for source in sorted((finished / "work").glob(part)):
            target = folder / "work" / source.relative_to(finished / "work")
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy2(source, target, follow_symlinks=False)
