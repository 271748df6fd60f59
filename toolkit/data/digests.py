"""SHA-256 of audio files, remembered on disk: a later start reads no audio to know it again.

The table is a text file that is only appended to, a line for each file that was hashed::

    <crc32 of the rest> <sha256> <bytes> <mtime in ns> <path>

A line is one write, so that processes that share a table need no lock. A line that does not fit
its own checksum (torn, overwritten, damaged) is left out with a warning, and that file is hashed
again; so nothing is at risk when writers meet on a file system that appends less than atomically.
"""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from io import FileIO
from pathlib import Path

from toolkit.files import atomic_write, sha256_of

log = logging.getLogger("toolkit")

_STAMP = struct.Struct("<qq")  # size, mtime
#: A file younger than this may change again within one tick of its time stamp.
_SETTLED_NS = 2_000_000_000
#: The table is written anew when it has this many lines for every file in it.
_LINES_A_FILE = 3


class DigestTable:
    """Digests of files by path, size and time, in memory and in a file that processes share.

    Parameters
    ----------
    path : str or Path, optional
        The table's file; read when the first digest is asked for, created with the first that is
        computed. Without it digests live as long as the process.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.wav").write_bytes(b"abc")
    >>> os.utime(folder / "a.wav", ns=(0, 1))
    >>> DigestTable(folder / "table").digest(str(folder / "a.wav"), 3, 1)[:8]
    'ba7816bf'
    >>> (folder / "a.wav").unlink()  # the second table does not read it
    >>> DigestTable(folder / "table").digest(str(folder / "a.wav"), 3, 1)[:8]
    'ba7816bf'
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path).absolute()
        # By path: size, time and digest as 48 bytes, as corpora have a million files.
        self._known: dict[str, bytes] = {}
        self._unread = self.path is not None
        self._file: FileIO | None = None
        self._prefix = b""

    def __len__(self) -> int:
        """Files known so far."""
        self._read_once()
        return len(self._known)

    def digest(self, path: str, size: int, mtime_ns: int) -> str:
        """SHA-256 of a file, which is read only if it is new or was changed.

        Parameters
        ----------
        path : str
            Absolute, or it is not remembered on disk.
        size : int
            Bytes, as ``os.stat`` tells them now.
        mtime_ns : int
            Time of the last change in nanoseconds, from the same call.

        Returns
        -------
        str
            64 hexadecimal digits.

        Raises
        ------
        OSError
            If the file has to be read and cannot be.
        """
        self._read_once()
        stamp = _STAMP.pack(size, mtime_ns)
        entry = self._known.get(path)
        if entry is not None and entry.startswith(stamp):
            return entry[_STAMP.size :].hex()
        settled = time.time_ns() - mtime_ns > _SETTLED_NS
        digest = sha256_of(path)
        self._known[path] = stamp + bytes.fromhex(digest)
        if settled and os.path.isabs(path) and "\n" not in path:
            self._append(path)
        return digest

    def close(self) -> None:
        """Close the file; digests asked for from now on are not remembered on disk."""
        if self._file is not None:
            self._file.close()
        self.path = self._file = None

    def _read_once(self) -> None:
        if not self._unread:
            return
        self._unread = False
        lines = damaged = 0
        try:
            with open(self.path, "rb") as stream:
                for line in stream:
                    lines += 1
                    if not line.endswith(b"\n"):
                        # Another process writes it now, or its end is gone for good.
                        self._prefix = b"\n"
                    elif line != b"\n":
                        damaged += not self._learn(line)
        except FileNotFoundError:
            return
        except OSError as error:
            self._give_up("read", error)
            return
        if damaged:
            log.warning(
                "%s: %d of %d lines are damaged; the audio they stood for is read again",
                self.path, damaged, lines,
            )  # fmt: skip
        if damaged or lines > _LINES_A_FILE * len(self._known) + 1000:
            self._rewrite()

    def _learn(self, line: bytes) -> bool:
        """Take over a line of the file; False for a damaged one."""
        check, _, body = line[:-1].partition(b" ")
        try:
            if zlib.crc32(body) != int(check, 16):
                return False
        except ValueError:
            return False
        digest, size, mtime_ns, path = body.split(b" ", 3)
        stamp = _STAMP.pack(int(size), int(mtime_ns))
        self._known[os.fsdecode(path)] = stamp + bytes.fromhex(digest.decode("ascii"))
        return True

    def _rewrite(self) -> None:
        # A line that another process appends meanwhile is lost: its file is hashed once more.
        content = b"".join(_line(path, entry) for path, entry in self._known.items())
        try:
            atomic_write(self.path, content)
        except OSError as error:
            self._give_up("written", error)
        self._prefix = b""

    def _append(self, path: str) -> None:
        if self.path is None:
            return
        try:
            if self._file is not None and not self._is_the_tables():
                self._file.close()
                self._file = None
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Unbuffered: a line is one write at the file's end, also behind a fork.
                self._file = open(self.path, "ab", buffering=0)
            self._file.write(self._prefix + _line(path, self._known[path]))
            self._prefix = b""
        except OSError as error:
            self._give_up("written", error)

    def _is_the_tables(self) -> bool:
        """Whether the open file is still the table: another process may have written it anew."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _give_up(self, what: str, error: OSError) -> None:
        log.warning(
            "%s cannot be %s (%s): the next start reads all audio again to know it", self.path,
            what, error.strerror,
        )  # fmt: skip
        self.close()


def _line(path: str, entry: bytes) -> bytes:
    size, mtime_ns = _STAMP.unpack_from(entry)
    digest = entry[_STAMP.size :].hex()
    body = b"%s %d %d %s" % (digest.encode(), size, mtime_ns, os.fsencode(path))
    return b"%08x %s\n" % (zlib.crc32(body), body)


_table = DigestTable()


def keep_digests(path: str | os.PathLike[str] | None) -> None:
    """Remember this process's digests in a file from now on.

    Parameters
    ----------
    path : str or Path or None
        The table's file, see `DigestTable`; None for no file.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.wav").write_bytes(b"abc")
    >>> os.utime(folder / "a.wav", ns=(0, 1))
    >>> keep_digests(folder / "table")
    >>> file_digest(str(folder / "a.wav"), 3, 1)[:8], (folder / "table").exists()
    ('ba7816bf', True)
    >>> keep_digests(None)
    """
    global _table
    wanted = None if path is None else Path(path).absolute()
    if wanted != _table.path:
        _table.close()
        _table = DigestTable(wanted)


def file_digest(path: str, size: int, mtime_ns: int) -> str:
    """`DigestTable.digest` of the process's table, see `keep_digests`."""
    return _table.digest(path, size, mtime_ns)
