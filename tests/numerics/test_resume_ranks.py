"""Two processes that were warned or killed go on as two and as one, with the same losses."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_training import SignalAt, in_process, tiny_brain, tiny_phase  # noqa: E402

from toolkit.training import REQUEUE_EXIT  # noqa: E402
from toolkit.training.record import read_lines  # noqa: E402

STEPS = list(range(1, 13))


class OnRank(SignalAt):
    """`SignalAt` in one of the processes."""

    def __init__(self, rank: int, step: int, number: int) -> None:
        super().__init__(step, number)
        self.rank = str(rank)

    def on_step(self, step: int) -> None:
        if os.environ["RANK"] == self.rank:
            super().on_step(step)


def train(folder: Path, hooks: OnRank | None = None) -> None:
    # Without dropout, as two ranks draw other masks than one; checkpoints at steps 4, 8 and 12.
    phase = tiny_phase(checkpoint_every_seconds=1e9)
    tiny_brain(folder, phase, hooks, dropout=0.0).fit()


def two_processes(folder: Path, hooks: OnRank | None = None) -> list[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return in_process(train, folder, hooks, ranks=2, port=port)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nobody stops."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert in_process(train, folder) == [0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "rank"),
    [(signal.SIGTERM, 1), (signal.SIGUSR1, 0), (signal.SIGKILL, 0), (signal.SIGKILL, 1)],
)
def test_stopped_in_two_goes_on_in_two_and_in_one(tmp_path, straight, number, rank):
    two, one = tmp_path / "two", tmp_path / "one"
    (tmp_path / "data").symlink_to(straight.parent / "data")
    codes = two_processes(two, OnRank(rank, 6, number))
    if number == signal.SIGKILL:
        # The other process neither waits for ever nor goes on alone.
        assert codes[rank] == -number and codes[1 - rank] == 1
        saved, done = 4, (6, 7)
    else:
        # One of them was warned, both stop: behind the step in which they told each other.
        assert codes == [REQUEUE_EXIT, REQUEUE_EXIT]
        saved, done = 7, (7,)
    assert read_lines(two / "train_log.jsonl")[-1]["step"] in done
    newest = max(path.name for path in (two / "checkpoints").glob("step_*"))
    assert newest == f"step_{saved:08d}"
    shutil.copytree(two, one, symlinks=True)
    assert two_processes(two) == [0, 0]
    assert in_process(train, one) == [0]
    for folder in (two, one):
        for name in ("train_log.jsonl", "valid_log.jsonl"):
            mine, theirs = (read_lines(run / name) for run in (folder, straight))
            assert [line["step"] for line in mine] == [line["step"] for line in theirs]
            for a, b in zip(mine, theirs, strict=True):
                values = "losses" if "losses" in a else "metrics"
                assert a[values] == pytest.approx(b[values], rel=1e-4)
        assert [line["step"] for line in read_lines(folder / "train_log.jsonl")] == STEPS
