"""Training in several processes of one machine: started, warned and ended together.

For several machines the same stages run under ``torchrun``; there as here a rank knows its place
from ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

#: Stages that several processes share; all others are one process's work.
SHARED_STAGES = ("pretrain", "train")
#: Signals of a queue that mean "stop soon": every rank gets them and writes its checkpoint.
WARNINGS = (signal.SIGTERM, signal.SIGUSR1)
#: Time for the other ranks to end when one has failed.
GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def world_size() -> int:
    """Number of processes of this launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Place of this process in the launch."""
    return int(os.environ.get("RANK", "0"))


def local_device(device: str) -> str:
    """This rank's own device.

    Parameters
    ----------
    device : str
        ``cuda`` means the GPU of the rank's number on its machine.

    Returns
    -------
    str

    Example
    -------
    >>> local_device("cpu")
    'cpu'
    """
    if device != "cuda" or world_size() == 1:
        return device
    import torch

    own = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(own)
    return f"cuda:{own}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_ranks(command: Sequence[str], count: int) -> int:
    """Run a command as so many ranks of one launch.

    Parameters
    ----------
    command : sequence of str
        Arguments of ``python -m toolkit``.
    count : int

    Returns
    -------
    int
        0 when all ranks ended well, else the first rank's other exit status: a rank that was told
        to stop and can go on ends with `toolkit.training.signals.REQUEUE_EXIT`.
    """
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    processes: list[subprocess.Popen] = []

    def forward(number: int, frame: FrameType | None = None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in WARNINGS}
    try:
        for i in range(count):
            own = {"RANK": str(i), "LOCAL_RANK": str(i)}
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "toolkit", *command],
                    env={**os.environ, **shared, **own},
                    preexec_fn=_end_with_parent,
                )
            )
        return _wait(processes)
    finally:
        forward(signal.SIGKILL)
        for process in processes:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it is gone, however it went."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        # Elsewhere an orphaned rank ends at the next collective, which nobody answers.
        pass


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    """Exit status of the launch; when one rank ends badly, the others cannot go on without it."""
    failed_at, bad = 0.0, []
    while True:
        going = any(process.poll() is None for process in processes)
        if not bad:
            # The first to end badly says why; what others end with later is an echo of it.
            bad = [code for process in processes if (code := process.poll())]
            failed_at = time.monotonic()
        if not going or (bad and time.monotonic() - failed_at > GRACE_SECONDS):
            break
        time.sleep(0.05)
    if not bad:
        return 0
    # Of two at once an error of Python's tells more than a signal, which is given as shells do.
    code = next((code for code in bad if code > 0), bad[0])
    return code if code > 0 else 128 - code
