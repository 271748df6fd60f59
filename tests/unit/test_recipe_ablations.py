"""The documented ablations change what they say, and nothing else that matters."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.cli.main import parse
from toolkit.config import load
from toolkit.data import TranscriptionSet

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/asterisk_sounds/mtbi/train.yaml"
README = RECIPE.parent / "README.md"
SCRIPT = ROOT / "egs/asterisk_sounds/mtbi/ablations.sh"


def documented() -> dict[str, list[str]]:
    """Tag to overrides, as the page has them."""
    section = README.read_text().partition("## Ablations")[2].partition("\n## ")[0]
    text = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            arguments = parse(["run", str(RECIPE), *words[1:]])
            found[arguments.tag] = arguments.overrides
    return found


OVERRIDES = documented()


@pytest.fixture
def config(request, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return load(RECIPE, ["work=work", *OVERRIDES[request.param]], instantiate=False)


def tagged(tag: str):
    return pytest.mark.parametrize("config", [tag], indirect=True, ids=[tag])


def test_all_that_are_asked_for_are_documented():
    assert set(OVERRIDES) == {
        "no_interleaving", "cut_after_encode", "cut_before_encode", "spans_bernoulli",
        "spans_segments", "curriculum", "kl", "ce_and_kl", "one_task", "blsp", "asr_only",
        "no_warm_start", "warm_start_only",
    }  # fmt: skip


@pytest.mark.parametrize("config", list(OVERRIDES), indirect=True)
def test_each_can_be_built(config):
    objects = config.build("interleaver", "sets", "projector", "llm", "encoder", "prompt")
    for name in ("pretrain", "train"):
        if config.select(f"phases.{name}") is None:
            continue
        phase = config.build(f"phases.{name}")[f"phases.{name}"]
        assert set(phase.data) <= set(objects["sets"])
        assert set(phase.validation) <= set(objects["sets"])
        # A metric is there only if its set is validated on and its term has a weight.
        if phase.select != "loss":
            where, term = phase.select.split("/")
            assert where in phase.validation and phase.losses[term].weight_at(1.0) > 0
        if objects["interleaver"].cut == "before_encode":
            assert config.tree["cache"] in ("off", False)


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        ("no_interleaving", "probability", 0.0),
        ("cut_after_encode", "cut", "after_encode"),
        ("cut_before_encode", "cut", "before_encode"),
        ("spans_bernoulli", "policy", "bernoulli"),
        ("spans_segments", "policy", "segments"),
        ("blsp", "probability", 0.0),
    ],
    indirect=["config"],
)
def test_interleaving(config, key, value):
    assert getattr(config.build("interleaver")["interleaver"], key) == value


@tagged("curriculum")
def test_a_curriculum_goes_from_mostly_text_to_mostly_speech(config):
    interleaver = config.build("interleaver")["interleaver"]
    assert interleaver.ratio(0.0) == (0.1, 0.4) and interleaver.ratio(1.0) == (0.9, 1.0)


@pytest.mark.parametrize(
    ("config", "response", "behaviour"), [("kl", 0.0, 1.0), ("ce_and_kl", 1.0, 1.0)],
    indirect=["config"],
)  # fmt: skip
def test_what_is_imitated(config, response, behaviour):
    losses = config.build("phases.train")["phases.train"].losses
    assert (losses["response"].weight, losses["behaviour"].weight) == (response, behaviour)


@pytest.mark.parametrize(
    ("config", "task"), [("one_task", "intent"), ("blsp", "continuation")],
    indirect=["config"],
)  # fmt: skip
def test_one_task(config, task):
    assert [t.name for t in config.build("teacher")["teacher"].pool] == [task]


@tagged("asr_only")
def test_recognition_alone_learns_gold_text(config):
    phase = config.build("phases.train")["phases.train"]
    own = config.build("sets")["sets"]["asr"]
    assert list(phase.data) == ["asr"] and isinstance(own, TranscriptionSet)
    assert own.target == "text" and own.max_seconds == 30.0
    # Nothing of the test sets' selection comes from imitation.
    assert list(phase.validation) == ["asr_dev"]


@tagged("no_warm_start")
def test_without_a_warm_start(config):
    assert config.select("phases.pretrain") is None and config.select("phases.train") is not None


def script(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *words], env={**os.environ, **environment}, capture_output=True,
        text=True,
    )  # fmt: skip


def test_the_script_runs_what_is_documented():
    listed = [shlex.split(line) for line in script("--list").stdout.splitlines()]
    assert listed[0] == ["base"]
    assert {name: overrides for name, *overrides in listed[1:]} == OVERRIDES


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment whose Python notes what it was asked to run; ``kl`` fails, others score."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    work = tmp_path / "work/exp/asterisk_sounds"
    (folder / "python").write_text(
        f"""#!/bin/bash
case "$*" in *missing.py*) exec {sys.executable} -c '' ;; esac
printf '%q ' "$@" >>{tmp_path}/asked; echo >>{tmp_path}/asked
case "$*" in
    *--tag\\ ablation_kl*) exit ${{KL_EXIT:-1}} ;;
    *toolkit\\ report*) echo "| one table |" ;;
    *) all="$*"; tag="${{all#*--tag }}"; mkdir -p "{work}/mtbi_${{tag%% *}}/seed1"
       touch "{work}/mtbi_${{tag%% *}}/seed1/scores.json" ;;
esac
"""
    )
    (folder / "python").chmod(0o755)
    return tmp_path


def run_script(python: Path, *words: str, **more: str):
    work = python / "work"
    done = script(*words, VIRTUAL_ENV=str(python / "venv"), TOOLKIT_WORK=str(work), **more)
    asked = (python / "asked").read_text().splitlines() if (python / "asked").exists() else []
    return done, [shlex.split(line) for line in asked]


def test_all_runs_have_one_budget_share_what_they_can_and_stand_in_one_table(python):
    budget = "phases.train.max_seconds=120"
    done, asked = run_script(python, "--seeds", "1,2", "--only", "base,kl,no_warm_start", budget)
    place = python / "work/exp/asterisk_sounds"
    runs = [parse(words[2:]) for words in asked[:-1]]
    assert [run.tag for run in runs] == ["ablation_base", "ablation_kl", "ablation_no_warm_start"]
    assert all(run.overrides[0] == budget and run.seeds == "1,2" for run in runs)
    assert all(run.reuse == place for run in runs)
    assert runs[2].overrides[1:] == OVERRIDES["no_warm_start"]
    # One that fails is named at the end; the others are run and reported all the same.
    assert done.returncode == 1 and "not finished: kl" in done.stderr
    report = parse(asked[-1][2:])
    assert report.command == "report" and report.recipe == place / "mtbi_ablation_base"
    assert report.overrides == [str(place / "mtbi_ablation_no_warm_start")]
    assert (place / "ablations.md").read_text() == "| one table |\n"


def test_a_run_that_is_told_to_stop_stops_all_and_a_plan_reports_nothing(python):
    done, asked = run_script(python, "--only", "base,kl,blsp", KL_EXIT="85")
    assert done.returncode == 85 and len(asked) == 2
    done, asked = run_script(python, "--only", "blsp", "--dry-run")
    assert done.returncode == 0 and len(asked) == 3
    assert "--dry-run" in asked[-1] and "report" not in asked[-1]
    done, asked = run_script(python, "--only", "base,nothing")
    assert done.returncode == 2 and "--only nothing: there are base no_inter" in done.stderr
    assert len(asked) == 3
