"""Training in two processes through the command line: same losses, warned, killed, resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import copy_until

from toolkit.pipeline.marks import Marks
from toolkit.training.record import read_lines

ROOT = Path(__file__).resolve().parents[2]
# Without dropout: two ranks draw other masks than one.
SETTINGS = ("projector.dropout=0.0", "phases.pretrain.accumulation=2", "phases.pretrain.ema=0.9")
STEPS = 60
SLOWER = (
    f"phases.pretrain.optimizer_steps={STEPS}",
    f"phases.pretrain.validate_every={STEPS}",
    "phases.pretrain.lr=1e-3",
)


def start(recipe: Path, folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "toolkit", "run", str(recipe), *SETTINGS, "--device", "cpu",
               "--stage", "pretrain", "--stop-stage", "pretrain", *words]  # fmt: skip
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen, code: int = 0) -> str:
    out = process.communicate(timeout=300)[0]
    assert process.returncode == code, out
    return out


def phase(folder: Path) -> Path:
    return folder / "work/exp/tiny/mtbi/seed1/pretrain"


def losses(folder: Path) -> list[dict]:
    return [line["losses"] for line in read_lines(phase(folder) / "train_log.jsonl")]


def saved(folder: Path) -> list[int]:
    """Steps of the checkpoints."""
    return sorted(int(p.name[-8:]) for p in phase(folder).glob("checkpoints/step_*"))


def fresh(finished: Path, folder: Path) -> Path:
    copy_until(finished, folder, "data", "cache", "annotations", "targets")
    return folder


def wait_for_steps(process: subprocess.Popen, folder: Path, steps: int) -> None:
    end = time.monotonic() + 200
    log = phase(folder) / "train_log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "training does not get there"
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(recipe, finished, tmp_path):
    one, two = fresh(finished, tmp_path / "one"), fresh(finished, tmp_path / "two")
    finish(start(recipe, one))
    out = finish(start(recipe, two, "--nproc", "2"))
    assert "stage 6 pretrain: 2 processes" in out
    assert len(losses(one)) == len(losses(two)) == 6
    for mine, theirs in zip(losses(one), losses(two), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    folder = two / "work/exp/tiny/mtbi/seed1"
    assert Marks(folder).read("pretrain")["facts"]["stopped"] == "steps"
    assert {p.name for p in (folder / "log").iterdir()} == {
        "06_pretrain.log", "06_pretrain.rank1.log",
    }  # fmt: skip
    # Done is done for several processes too.
    assert "done before" in finish(start(recipe, two, "--nproc", "2"))


def of_rank(process: subprocess.Popen, rank: int) -> int:
    """Process id of a rank that the command started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes() for pid in children}
    own = f"RANK={rank}".encode()
    (pid,) = (pid for pid, text in environments.items() if own in text.split(b"\0"))
    return pid


@pytest.mark.slow
def test_warned_and_killed_runs_go_on_with_two_processes_and_with_one(recipe, finished, tmp_path):
    """Either signal, either rank: `tests/numerics/test_resume_ranks.py`."""
    whole = fresh(finished, tmp_path / "whole")
    finish(start(recipe, whole, *SLOWER))
    two, one = fresh(finished, tmp_path / "two"), tmp_path / "one"
    process = start(recipe, two, *SLOWER, "--nproc", "2")
    wait_for_steps(process, two, 3)
    process.send_signal(signal.SIGTERM)
    finish(process, 85)
    done = len(losses(two))
    assert 3 <= done < STEPS and saved(two) == [done]
    # One of them killed without a word, between checkpoints: the steps since are done again.
    process = start(recipe, two, *SLOWER, "--nproc", "2")
    wait_for_steps(process, two, done + 3)
    os.kill(of_rank(process, 1), signal.SIGKILL)
    out = process.communicate(timeout=100)[0]
    # A failure and no request to start again: something is wrong with that machine.
    assert process.returncode not in (0, 85), out
    assert done + 3 <= len(losses(two)) < STEPS and saved(two) == [done]
    shutil.copytree(two, one, symlinks=True)
    finish(start(recipe, two, *SLOWER, "--nproc", "2"))
    finish(start(recipe, one, *SLOWER))
    for folder in (one, two):
        assert len(losses(folder)) == STEPS
        for mine, theirs in zip(losses(whole), losses(folder), strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3)


@pytest.mark.slow
def test_a_stage_of_one_process_is_refused_in_several(recipe, finished, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    folder = fresh(finished, tmp_path)
    out = finish(start(recipe, folder, "--stop-stage", "score"), 1)
    assert "several processes run pretrain, train only, not decode, score" in out
