"""Ranks of one launch: all are warned, all end, however one of them or the command went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from toolkit.pipeline import ranks

#: Stands in for Python: says that it runs, and ends when it is warned.
RANK = """#!/bin/bash
trap 'echo warned >{folder}/$RANK.warned; exit 85' TERM USR1
echo $$ >{folder}/.$RANK; mv {folder}/.$RANK {folder}/$RANK.pid
{more}
while :; do sleep 0.02; done
"""


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """Makes ranks run a script instead; ``more`` is what they do first."""

    def put(more: str = "") -> Path:
        path = tmp_path / "python"
        path.write_text(RANK.format(folder=tmp_path, more=more))
        path.chmod(0o755)
        monkeypatch.setattr(ranks.sys, "executable", str(path))
        return path

    return put


def pids(folder: Path) -> list[int]:
    """Process ids of two ranks, once both run."""
    end = time.monotonic() + 20
    while len(found := sorted(folder.glob("*.pid"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    return [int(path.read_text()) for path in found]


def alive(pid: int) -> bool:
    """Whether a process runs; one whose exit status nobody has read yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_warning_reaches_every_rank(tmp_path, rank, number):
    rank()
    before = signal.getsignal(number)

    def warn() -> None:
        pids(tmp_path)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=warn)
    thread.start()
    assert ranks.run_ranks(["run"], 2) == 85
    thread.join()
    assert sorted(path.name for path in tmp_path.glob("*.warned")) == ["0.warned", "1.warned"]
    assert signal.getsignal(number) is before


def test_no_rank_outlives_one_that_was_killed(tmp_path, rank, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.2)
    rank("[ $RANK = 1 ] && kill -9 $$")
    assert ranks.run_ranks(["run"], 2) == 128 + signal.SIGKILL
    assert not any(alive(pid) for pid in pids(tmp_path))
    assert not list(tmp_path.glob("*.warned"))


def test_what_ended_first_is_what_the_command_ends_with(rank):
    """A rank whose mate is gone fails as well, with an error that tells nothing."""
    rank("[ $RANK = 1 ] && kill -9 $$\nsleep 0.5; exit 1")
    assert ranks.run_ranks(["run"], 2) == 128 + signal.SIGKILL
    rank("[ $RANK = 1 ] && exit 3\nsleep 0.5; kill -9 $$")
    assert ranks.run_ranks(["run"], 2) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_no_rank_outlives_the_command(tmp_path, rank):
    code = "import sys; from toolkit.pipeline import ranks; sys.executable = sys.argv[1]; "
    command = [sys.executable, "-c", code + "ranks.run_ranks(['run'], 2)"]
    process = subprocess.Popen([*command, str(rank())])
    running = pids(tmp_path)
    assert all(alive(pid) for pid in running)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while any(alive(pid) for pid in running):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not list(tmp_path.glob("*.warned"))
