"""Builds recipes as small as one can be: random models, a handful of tones, seconds."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tiny_models import save_llama, save_whisper  # noqa: E402

from toolkit.pipeline.runner import RunOptions, run  # noqa: E402

#: What recipes share: a method's YAML names these blocks, as ``$head``.
SHARED = {
    "head": """\
seed: 1
work: work
exp: work/exp
precision: fp32
num_workers: 0
log_every: 1

whisper: {whisper}
llm_source: {llm}
data: !ref <work>/data/{data}

corpora:
    {data}: !name:{module}.prepare {{nj: 1}}

encoder: !new:toolkit.encoders.WhisperEncoder
    source: !ref <whisper>
    layers: {layers}
    max_seconds: 2.0
""",
    # Of any projector.
    "ends": """\
    input_dim: !ref <encoder.dim>
    output_dim: !ref <llm.dim>
    input_layers: !ref <encoder.num_layers>
    frame_rate: !ref <encoder.frame_rate>
""",
    # In `sets`: what the teacher wrote.
    "taught": """\
    {taught}: !new:toolkit.data.TargetSet
        manifests: [!ref <data>/train.jsonl]
        targets: !ref <exp>/targets.jsonl
    {taught}_dev: !new:toolkit.data.TargetSet
        manifests: [!ref <data>/dev.jsonl]
        targets: !ref <exp>/targets.jsonl
""",
    # Arguments of `score` may follow.
    "tail": """\
cache:
    dtype: float32
    max_gib: 0.1

export: true

score: !new:toolkit.evaluation.ScorePlan
    normaliser: english
    bootstrap: 50
""",
}


def write_recipe(
    root: Path,
    method: str,
    blocks: str,
    taught: str,
    module: str = "tiny_corpus",
    data: str = "tiny",
    layers: str = "[-1]",
) -> Path:
    """Write ``<root>/recipes/tiny/<method>/train.yaml``, its models and a user's module beside it.

    Parameters
    ----------
    root : Path
        Recipes of one root share ``<root>/whisper`` and ``<root>/llm``.
    method : str
    blocks : str
        The method's YAML, with places of `SHARED` blocks.
    taught : str
        Name of the set of the teacher's targets; the development set is ``<taught>_dev``.
    module : str
        Of this folder, with the corpus' ``prepare``.
    data : str
        Name of the corpus.
    layers : str
        That the encoder taps.

    Returns
    -------
    Path
        Of the YAML.
    """
    folder = root / "recipes" / "tiny" / method
    folder.mkdir(parents=True)
    whisper, llm = root / "whisper", root / "llm"
    if not llm.exists():
        save_whisper(whisper)
        save_llama(llm)
    names = {"whisper": whisper, "llm": llm, "taught": taught}
    names |= {"module": module, "data": data, "layers": layers}
    shared = {block: text.format(**names) for block, text in SHARED.items()}
    path = folder / "train.yaml"
    path.write_text(Template(blocks).substitute(shared))
    shutil.copy(HERE / f"{module}.py", folder)
    return path


@contextmanager
def own_home(root: Path) -> Iterator[None]:
    """A home of weights below a root, one thread, and ``sys.path`` as it was at the end."""
    path, home, threads = list(sys.path), os.environ.get("TOOLKIT_HOME"), torch.get_num_threads()
    os.environ["TOOLKIT_HOME"] = str(root / "home")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        sys.path[:] = path
        if home is None:
            os.environ.pop("TOOLKIT_HOME")
        else:
            os.environ["TOOLKIT_HOME"] = home


def run_in(folder: Path, *runs: RunOptions) -> Path:
    """Run recipes one after the other below ``<folder>/work``; settings name no absolute path."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        for options in runs:
            run(options)
    finally:
        os.chdir(before)
    return folder
