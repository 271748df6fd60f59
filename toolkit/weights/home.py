"""The folder that holds downloads and converted weights, and the file operations that keep it
whole.

Everything becomes visible by one ``rename`` of a finished directory or file. Locks only save
double work: they are kernel locks (``flock``), so a killed process leaves none behind, and nothing
is wrong where they are not available.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.files import sha256_of
from toolkit.weights.errors import ChecksumMismatch


def weights_home() -> Path:
    """Return the folder of downloads and converted weights.

    Returns
    -------
    Path
        ``$TOOLKIT_HOME`` where it is set, ``~/.cache/speechllm-toolkit`` otherwise. It may not
        exist yet.

    Example
    -------
    >>> from unittest.mock import patch
    >>> with patch.dict("os.environ", TOOLKIT_HOME="/data/toolkit"):
    ...     str(weights_home())
    '/data/toolkit'
    """
    configured = os.environ.get("TOOLKIT_HOME")
    return Path(configured).expanduser() if configured else Path.home() / ".cache/speechllm-toolkit"


def check_sha256(path: Path, expected: str, remedy: str, label: str | None = None) -> None:
    """Raise :class:`ChecksumMismatch` unless ``path`` has the expected sha256.

    Parameters
    ----------
    path : Path
        File to check.
    expected : str
        64 hexadecimal digits.
    remedy : str
        What the reader of the error is to do; closes the message.
    label : str, optional
        How the message names the file, where its path (a temporary one) would say little.

    Raises
    ------
    ChecksumMismatch
        Naming the file and both sums.
    """
    got = sha256_of(path)
    if got != expected:
        raise ChecksumMismatch(label or str(path), expected, got, remedy)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock that the kernel drops when its process ends, however it ends.

    Parameters
    ----------
    path : Path
        Lock file, created where absent and never removed (removing it would let two holders in).

    Yields
    ------
    bool
        True while the lock is held; False where the file system has no locks (some network
        mounts). The caller then still is correct, as results appear by rename, but must not clean
        up what might be another's work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that works on {path.stem} ...", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


@contextmanager
def staging(target: Path, *, sole_owner: bool) -> Iterator[Path]:
    """Give a temporary directory beside ``target``; it is removed on exit unless it was renamed
    away.

    Parameters
    ----------
    target : Path
        Where the finished result will be renamed to; same folder, hence the same file system.
    sole_owner : bool
        True when a lock guarantees that nobody else works on ``target``: leftovers of killed
        processes are removed.

    Yields
    ------
    Path
        An empty directory.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".tmp-{target.name}-"
    if sole_owner:
        for leftover in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = target.parent / f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, target: Path) -> Path:
    """Rename a finished file or directory to its final name.

    Parameters
    ----------
    temporary : Path
        Finished file or directory on the same file system as ``target``.
    target : Path
        Final name. If another process published the same directory meanwhile, its copy stays: both
        hold the same content, since names are made of content keys.

    Returns
    -------
    Path
        ``target``.
    """
    try:
        os.replace(temporary, target)
    except OSError:
        if not target.is_dir():
            raise
    return target


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON through a temporary file and a rename.

    Parameters
    ----------
    path : Path
        Final name; its folder exists.
    value : object
        Anything that ``json`` can write.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
