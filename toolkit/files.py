"""Files that are whole or absent, whatever kills the writer; JSON lines that are whole; digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def atomic_write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that a kill leaves the old content or the new, never a part.

    Parameters
    ----------
    path : str or path
        Its folder is created.
    content : bytes
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name per process: two writers of the same file must not share a half-written one.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with open(partial, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes.

    Parameters
    ----------
    path : str or path
        An existing file, read in chunks of 1 MiB.

    Returns
    -------
    str
        64 hexadecimal digits.

    Example
    -------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "empty"
    >>> _ = file.write_bytes(b"")
    >>> sha256_of(file)[:16]
    'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def whole_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read JSON lines that are appended to; what a killed writer left half is cut off the file.

    Lines end at ``\\n`` alone: unescaped JSON strings may hold the other characters that
    `str.splitlines` breaks at, such as U+2028.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    list of dict
        Empty for a missing file.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.jsonl")
    ...     _ = path.write_text('{"a": 1}\\n{"a": ')
    ...     whole_json_lines(path), path.read_text()
    ([{'a': 1}], '{"a": 1}\\n')
    """
    return [json.loads(line) for line in drop_half_line(path).split(b"\n") if line]


def drop_half_line(path: str | os.PathLike[str]) -> bytes:
    """Cut off the file what a killed writer left behind the end of its last line.

    Parameters
    ----------
    path : str or path
        Nobody else may be writing to it.

    Returns
    -------
    bytes
        Its whole lines; empty for a missing file.
    """
    path = Path(path)
    if not path.exists():
        return b""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        # Truncated in place: the whole lines are never at risk.
        os.truncate(path, end)
    return content[:end]


def json_lines_so_far(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Read JSON lines that another process may be appending to; the file stays as it is.

    Parameters
    ----------
    path : str or path

    Yields
    ------
    dict
        Of each whole line.
    """
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
