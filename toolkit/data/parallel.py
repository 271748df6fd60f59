"""Many utterances made by a pool of processes that never outlives its parent."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np

from toolkit.data.audio import AudioError, audio_info, write_audio
from toolkit.data.synthesis import SynthesisError
from toolkit.files import atomic_write

_CHUNK = 8
#: 16 kHz samples (N,), or samples and what only their making can tell.
Rendered = np.ndarray | tuple[np.ndarray, dict[str, float]]


class AudioJob(Protocol):
    """One utterance to make; picklable."""

    @property
    def id(self) -> str:
        """Hash of everything that decides the sound."""

    def path(self, root: Path) -> Path:
        """Audio file below ``root``."""


def hashed_path(root: Path, id: str) -> Path:
    """Audio file of a hash, in one of 256 folders.

    Example
    -------
    >>> hashed_path(Path("/data"), "abcd").as_posix()
    '/data/audio/ab/abcd.flac'
    """
    return root / "audio" / id[:2] / f"{id}.flac"


def facts_path(audio: Path) -> Path:
    """Where a clip's facts lie.

    Example
    -------
    >>> facts_path(Path("/data/ab/abcd.flac")).name
    'abcd.json'
    """
    return audio.with_suffix(".json")


def leave_with_parent(parent: int) -> None:
    """Start a thread that ends this process when ``parent`` is no longer its parent.

    A killed parent cannot stop its workers, and they would wait for work for ever.

    Parameters
    ----------
    parent : int
        Process id, taken in the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker(parent: int) -> None:
    leave_with_parent(parent)
    import torch

    torch.set_num_threads(1)


def _make(
    chunk: list[AudioJob], root: Path, render: Callable[[AudioJob], Rendered]
) -> tuple[list[tuple[str, float | str]], float]:
    before = os.times()
    made: list[tuple[str, float | str]] = []
    for job in chunk:
        path = job.path(root)
        try:
            if not path.exists():
                rendered = render(job)
                if isinstance(rendered, tuple):
                    rendered, facts = rendered
                    # Before the audio: a finished clip always has its facts.
                    atomic_write(facts_path(path), json.dumps(facts, sort_keys=True).encode())
                write_audio(path, rendered)
            made.append((job.id, audio_info(path).duration))
        except SynthesisError:
            made.append((job.id, "no_sound"))
        except AudioError as error:
            made.append((job.id, f"audio_{error.reason}"))
    return made, sum(os.times()[:4]) - sum(before[:4])


def make_audio(
    jobs: Sequence[AudioJob],
    root: Path,
    render: Callable[[AudioJob], Rendered],
    nj: int,
    label: str = "synthesis",
) -> tuple[dict[str, float | str], float]:
    """Write the audio file of every job that has none yet.

    Files are written atomically and named by content: what a killed run finished is kept, and a
    run after it gives the same bytes.

    Parameters
    ----------
    jobs : sequence of AudioJob
    root : Path
    render : callable job -> numpy.ndarray (N,), float32
        A function of a module, so that workers can import it; 16 kHz, a pure function of the job.
        It may also give (samples, dict): the dict lies beside the audio, see `facts_path`.
    nj : int
        Processes.
    label : str
        Of the progress bar.

    Returns
    -------
    dict of str to float or str
        Job id to seconds of audio, or to the reason why there is none.
    float
        CPU seconds of the workers.
    """
    from tqdm import tqdm

    chunks = [list(jobs[i : i + _CHUNK]) for i in range(0, len(jobs), _CHUNK)]
    results: dict[str, float | str] = {}
    cpu_seconds = 0.0
    pool = ProcessPoolExecutor(
        nj, get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    )
    bar = tqdm(total=len(jobs), unit="utt", desc=label, smoothing=0.05)
    with pool, bar:
        for made, cpu in pool.map(_make, chunks, [root] * len(chunks), [render] * len(chunks)):
            results.update(made)
            cpu_seconds += cpu
            bar.update(len(made))
    return results, cpu_seconds
