"""What a changed setting makes anew: nothing, the stages from 6 on, or all from the teacher on."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import copy_until
from tiny_models import save_llama

from toolkit.pipeline.marks import StageChanged

RUN = Path("work/exp/tiny/mtbi/seed1")
#: Stages without a mark: they run whenever they are asked for.
ALWAYS = {"check", "download", "report"}
MARKED = ("prepare", "annotate", "teach", "cache", "pretrain", "train", "decode", "score", "export")


@pytest.fixture
def plan(finished, tmp_path, stages, capsys):
    """Plans of the finished run with other settings: stage to state, and the whole text."""
    copy_until(finished, tmp_path, "*")

    def states(*overrides: str, **options) -> tuple[dict[str, str], str]:
        stages(0, 11, overrides, dry_run=True, **options)
        text = capsys.readouterr().out
        found = dict(re.findall(r"^ +\d+ (\w+) +(\w+) ", text, re.M))
        assert {found.pop(name) for name in ALWAYS} == {"run"}
        return found, text

    return states


def contents(folder: Path = RUN) -> dict[str, str]:
    """Every file of a run but its logs and notes on commands."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("log", "provenance")
    }


def test_nothing_is_made_anew_for_workers_and_logging(plan):
    states, _ = plan("num_workers=3", "log_every=7", "corpora.tiny.nj=2")
    assert states == dict.fromkeys(MARKED, "done")


@pytest.mark.parametrize(
    "override", ["projector.strides=[4]", "projector.hidden_dim=24", "projector.num_layers=2"]
)
def test_a_changed_projector_asks_from_stage_6_on(plan, override):
    states, text = plan(override)
    early = ("prepare", "annotate", "teach", "cache")
    assert {name: states[name] for name in early} == dict.fromkeys(early, "done")
    assert (states["pretrain"], states["train"]) == ("changed", "changed")
    # What was made with the old projector would be made again behind the new one.
    assert [states[name] for name in ("decode", "score", "export")] == ["run"] * 3
    assert override.partition("=")[0].removeprefix("projector.") in text


def test_another_llm_asks_for_its_answers_and_all_behind_them(plan, tmp_path):
    other = save_llama(tmp_path / "other", seed=1)
    states, text = plan(f"llm_source={other}")
    # Frames, word times and data know nothing of the LLM.
    for name in ("prepare", "annotate", "cache"):
        assert states[name] == "done"
    assert [states[name] for name in ("teach", "pretrain", "train")] == ["changed"] * 3
    assert [states[name] for name in ("decode", "score", "export")] == ["run"] * 3
    assert text.count(f"-> {other}") >= 3 and "behind stage train" in text


def test_more_pretraining_asks_for_the_main_phase_too(plan):
    states, text = plan("phases.pretrain.optimizer_steps=9")
    assert (states["pretrain"], states["train"]) == ("continue", "changed")
    assert "behind stage pretrain" in text
    states, _ = plan("phases.train.optimizer_steps=9")
    assert (states["pretrain"], states["train"], states["decode"]) == ("done", "continue", "run")
    states, _ = plan("score.bootstrap=60")
    assert [name for name in MARKED if states[name] != "done"] == ["score"]


@pytest.mark.parametrize(
    ("overrides", "stage"),
    [
        (["projector.strides=[4]"], "6 pretrain"),
        (["phases.train.lr=1e-2"], "7 train"),
        (["interleaver.probability=1.0"], "7 train"),
        (['prompt.user="{instruction} {audio}"'], "4 teach"),
    ],
)
def test_a_finished_model_is_never_overwritten(plan, stages, overrides, stage):
    before = contents()
    with pytest.raises(StageChanged, match=f"stage {stage} was finished with other settings"):
        stages(2, 11, overrides)
    assert contents() == before


def test_force_moves_the_finished_model_aside_whole(plan, stages):
    before = contents(RUN / "train")
    stages("train", "train", ["phases.train.lr=1e-2"], force=True)
    (aside,) = (path for path in RUN.glob("train.*") if path.is_dir())
    assert contents(aside) == before != contents(RUN / "train")
