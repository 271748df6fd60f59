"""The losses that SpeechMapper's ablations put side by side."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from toolkit.config import load

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/asterisk_sounds/speechmapper/train.yaml"
SCRIPT = ROOT / "egs/asterisk_sounds/speechmapper/ablations.sh"


def listed() -> dict[str, list[str]]:
    done = subprocess.run([SCRIPT, "--list"], capture_output=True, text=True, check=True)
    lines = (shlex.split(line) for line in done.stdout.splitlines())
    return {name: overrides for name, *overrides in lines}


ABLATIONS = listed()


@pytest.fixture
def pretrain(request, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    config = load(RECIPE, ["work=work", *ABLATIONS[request.param]], instantiate=False)
    phase = config.build("phases.pretrain")["phases.pretrain"]
    weights = {name: loss.weight_at(0.0) for name, loss in phase.losses.items()}
    return phase, weights, config.build("projector")["projector"]


def named(name: str):
    return pytest.mark.parametrize("pretrain", [name], indirect=True, ids=[name])


PAPER = {"words": 5.0, "pads": 5.0, "cosine": 100.0}


@named("paper")
def test_the_first_is_the_papers_own_loss(pretrain):
    phase, weights, projector = pretrain
    assert next(iter(ABLATIONS)) == "paper"
    assert {name: w for name, w in weights.items() if w} == PAPER
    assert projector.ctc is None and phase.losses["cosine"].space.name == "raw"


@pytest.mark.parametrize(
    ("pretrain", "added"),
    [("contrast", {"contrast": 5.0}), ("whitened", {}), ("ctc", {"ctc": 100.0})],
    indirect=["pretrain"],
)
def test_the_others_add_one_thing(pretrain, added):
    phase, weights, projector = pretrain
    assert {name: w for name, w in weights.items() if w} == PAPER | added
    whitened = phase.losses["cosine"].space.name == "whitened"
    assert (whitened, projector.ctc is not None) == (not added, "ctc" in added)


@named("ctc")
def test_the_warm_start_fades(pretrain):
    phase, _, projector = pretrain
    assert phase.losses["ctc"].weight_at(0.5) == 0.0
    assert projector.ctc.input_dim == projector.dims[1]


def test_there_is_no_other():
    assert set(ABLATIONS) == {"paper", "contrast", "whitened", "ctc"}
