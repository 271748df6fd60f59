"""Files of the feature cache: shards, an index and a lock per writer, whole after any kill.

A line of an index is a clip's ``key``, its ``shard`` (file name) and its number of ``frames``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from toolkit.files import whole_json_lines

_SHARD = re.compile(r"(rank\d+)-(\d+)\.safetensors")


@contextmanager
def locked(path: Path) -> Iterator[str]:
    """Hold a kernel lock, which dies with its process: ``held``, ``taken``, or ``unsupported``."""
    with open(path, "a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield "taken"
        except OSError:
            yield "unsupported"
        else:
            yield "held"


def next_number(folder: Path, name: str) -> int:
    """Number of a writer's next shard.

    Parameters
    ----------
    folder : Path
        Of the shards.
    name : str
        Of the writer, ``rank0``.

    Returns
    -------
    int

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "rank1-00004.safetensors").touch()
    >>> next_number(folder, "rank1"), next_number(folder, "rank0")
    (5, 0)
    """
    numbers = [
        int(match[2])
        for path in folder.glob(f"{name}-*.safetensors")
        if (match := _SHARD.fullmatch(path.name))
    ]
    return max(numbers, default=-1) + 1


def write_shard(folder: Path, name: str, number: int, clips: dict[str, Tensor]) -> str:
    """Write a shard, and then the lines of the index that make it count.

    Parameters
    ----------
    folder : Path
    name : str
        Of the writer.
    number : int
        Of the shard, see `next_number`.
    clips : dict of str to Tensor (L, T, D)
        Frames by key, on the CPU, contiguous.

    Returns
    -------
    str
        The shard's file name.

    Raises
    ------
    OSError
        As the file system does; no partial file is left. A shard whose index could not be written
        is: see `remove_leftovers`.
    """
    from safetensors.torch import save

    shard = f"{name}-{number:05d}.safetensors"
    partial = folder / f".{shard}.{os.getpid()}.partial"
    lines = "".join(
        json.dumps({"key": key, "shard": shard, "frames": frames.shape[1]}) + "\n"
        for key, frames in clips.items()
    )
    try:
        with open(partial, "wb") as file:
            file.write(save(clips))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / shard)
        # The index line makes the shard exist: whatever dies before this leaves an orphan to
        # remove.
        with open(folder / f"{name}.jsonl", "a", encoding="utf-8") as index:
            index.write(lines)
            index.flush()
            os.fsync(index.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return shard


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what a killed writer left: partial files, shards not indexed, half lines.

    Parameters
    ----------
    folder : Path
    name : str
        Of the writer; no process may be writing as it, but the caller's.
    """
    known = {entry["shard"] for entry in whole_json_lines(folder / f"{name}.jsonl")}
    for path in folder.glob(f".{name}-*.partial"):
        path.unlink(missing_ok=True)
    for path in folder.glob(f"{name}-*.safetensors"):
        if path.name not in known:
            path.unlink(missing_ok=True)


def remove_other_leftovers(folder: Path, rank: int) -> None:
    """The same for ranks that no process writes as now, where locks can tell.

    Parameters
    ----------
    folder : Path
    rank : int
        The caller's own.
    """
    for lock in folder.glob("rank*.lock"):
        if lock.stem != f"rank{rank}":
            with locked(lock) as state:
                if state == "held":
                    remove_leftovers(folder, lock.stem)
