"""The embedded Self-Powered recipe: a warm start as MTBI has it, the paper's connector at hand."""

from __future__ import annotations

from pathlib import Path

from toolkit.config import load
from toolkit.projectors import CTCEmbedding, WindowQFormer

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/asterisk_sounds/self_powered/train.yaml"
MTBI = ROOT / "recipes/asterisk_sounds/mtbi/train.yaml"
CONNECTOR = [
    "projector=!ref <window_qformer>", "phases.pretrain=null", "phases.train.lr.projector=1.0e-3",
]  # fmt: skip


def read(path: Path, *overrides: str):
    return load(path, ["work=work", *overrides])


def test_warm_start_is_that_of_mtbi() -> None:
    """Side by side, models must differ by their method and not by what they start from."""
    own, theirs = read(RECIPE), read(MTBI)
    for key in ("corpora.spoken_text", "encoder", "phases.pretrain", "sets.paired", "llm.source"):
        assert own.select(key) is not None and own.select(key) == theirs.select(key), key
    projectors = [config.select("projector") for config in (own, theirs)]
    assert projectors[0].tag == projectors[1].tag
    # Both are as wide as the LLM, which has adapters in one of them.
    ours, others = ({**p.value, "output_dim": None} for p in projectors)
    assert ours == others


def test_the_papers_connector_is_one_override() -> None:
    projector = read(RECIPE).build("projector")["projector"]
    assert isinstance(projector, CTCEmbedding)
    config = read(RECIPE, *CONNECTOR)
    projector = config.build("projector")["projector"]
    assert isinstance(projector, WindowQFormer)
    assert (projector.window, projector.num_queries, projector.num_layers) == (17, 1, 2)
    assert config.select("phases.pretrain") is None
    assert config.select("phases.train.lr.projector") == 1.0e-3
    readme = (RECIPE.parent / "README.md").read_text(encoding="utf-8")
    assert all(override in readme for override in CONNECTOR)


def test_translations_are_asked_for_and_scored_in_one_language() -> None:
    config = read(RECIPE, "translate_into=French")
    written, scored = config.build("pool")["pool"], config.build("decode")["decode"].pool
    assert written["translation"].wordings == scored["translation"].wordings
    assert scored["translation"].language == "fr"
    metrics = config.build("score")["score"].metrics
    assert {type(m).__name__ for m in metrics["translation"]} >= {"BLEU", "ChrF"}
