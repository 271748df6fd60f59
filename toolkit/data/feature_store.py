"""Frozen-encoder features on disk, by the audio's content."""

from __future__ import annotations

import errno
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.component import parse_dtype
from toolkit.data.feature_shards import (
    locked,
    next_number,
    remove_leftovers,
    remove_other_leftovers,
    write_shard,
)
from toolkit.files import json_lines_so_far

if TYPE_CHECKING:
    from toolkit.encoders.base import Encoder

# Each process keeps this many shards mapped; mapping one again costs about a millisecond.
_OPEN_SHARDS = 128
_HEADER_BYTES = 160  # per tensor in a safetensors header, and its index line


class CacheError(RuntimeError):
    """The cache cannot be written or read; the message says what to do."""


class CacheFull(CacheError):
    """The features do not fit: the declared limit or the disk."""


class FeatureCache:
    """Encoder frames by audio content key.

    One folder per encoder fingerprint and dtype holds safetensors shards and, per writing rank, a
    JSON-lines index whose lines are appended only after their shard has its final name. What a
    killed writer left behind is never indexed and goes at the next writer's start. Reads map the
    shards into memory.

    Parameters
    ----------
    root : str or Path
        Folder shared by all runs.
    fingerprint : str
        `Encoder.fingerprint` of the encoder.
    dtype : str
        ``bfloat16``, ``float16`` or ``float32`` on disk.
    max_bytes : int, optional
        Refuse to grow beyond; no limit but the disk by default.
    shard_bytes : int
        Frames are collected up to this size before they are written.

    Example
    -------
    >>> import tempfile
    >>> cache = FeatureCache(tempfile.mkdtemp(), "0123abcd", "float32")
    >>> with cache.writer() as writer:
    ...     writer.add("key", torch.ones(1, 3, 2))
    >>> cache.get("key").shape, cache.missing(["key", "other"])
    (torch.Size([1, 3, 2]), ['other'])
    """

    def __init__(
        self,
        root: str | Path,
        fingerprint: str,
        dtype: str = "bfloat16",
        max_bytes: int | None = None,
        shard_bytes: int = 64 << 20,
    ) -> None:
        self.dtype = parse_dtype(dtype)
        self.folder = Path(root) / f"{fingerprint}-{str(self.dtype).removeprefix('torch.')}"
        self.max_bytes = max_bytes
        self.shard_bytes = shard_bytes
        self._handles: OrderedDict[str, Any] = OrderedDict()
        self._pid = os.getpid()
        self._seen: Any = None
        self.reload()

    def reload(self) -> None:
        """Read the index again if it was changed, to see what other writers have finished."""
        shards = {path.name: path.name for path in self.folder.glob("rank*.safetensors")}
        indexes = sorted(self.folder.glob("rank*.jsonl"))
        stats = [os.stat(path) for path in indexes]
        seen = (shards, indexes, [(stat.st_size, stat.st_mtime_ns) for stat in stats])
        if self._seen == seen:
            return
        self._seen = seen
        self._index: dict[str, tuple[str, int]] = {}
        for index in indexes:
            for entry in json_lines_so_far(index):
                # One string for all clips of a shard: there may be a million of them.
                shard = shards.get(entry["shard"])
                if shard is not None:
                    self._index[entry["key"]] = (shard, entry["frames"])

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Keys without features, each once, in the given order.

        Parameters
        ----------
        keys : iterable of str

        Returns
        -------
        list of str
        """
        return [key for key in dict.fromkeys(keys) if key not in self._index]

    def frames(self, key: str) -> int:
        """Number of frames of a clip, without reading them.

        Raises
        ------
        KeyError
            If the key is not cached.
        """
        return self._lookup(key)[1]

    def get(self, key: str) -> Tensor:
        """Features of a clip, mapped from disk.

        Parameters
        ----------
        key : str
            `Row.audio_key` of the clip.

        Returns
        -------
        Tensor (L, T, D)
            In the cache's dtype. Do not write into it.

        Raises
        ------
        KeyError
            If the key is not cached.
        """
        shard = self._lookup(key)[0]
        return self._open(shard).get_tensor(key)

    def _lookup(self, key: str) -> tuple[str, int]:
        try:
            return self._index[key]
        except KeyError:
            raise KeyError(
                f"no features of audio {key} in {self.folder} ({len(self)} clips): run the cache "
                "stage again, or set `cache: off`"
            ) from None

    def _open(self, shard: str) -> Any:
        from safetensors import safe_open

        if self._pid != os.getpid():  # a forked loader worker maps for itself
            self._handles, self._pid = OrderedDict(), os.getpid()
        if shard in self._handles:
            self._handles.move_to_end(shard)
        else:
            # Loaded by hand, not in a with block: the mapping must outlive this call.
            self._handles[shard] = safe_open(str(self.folder / shard), framework="pt").__enter__()
            while len(self._handles) > _OPEN_SHARDS:
                self._handles.popitem(last=False)
        return self._handles[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict()}

    def used_bytes(self) -> int:
        """Bytes of the finished shards, of all writers."""
        return sum(path.stat().st_size for path in self.folder.glob("rank*.safetensors"))

    def estimate_bytes(self, durations: Iterable[float], encoder: Encoder) -> int:
        """Bytes on disk for clips of these durations; needs no weights.

        Parameters
        ----------
        durations : iterable of float
            Seconds.
        encoder : Encoder

        Returns
        -------
        int
        """
        samples = torch.tensor(
            [round(d * encoder.sample_rate) for d in durations], dtype=torch.int64
        )
        if not len(samples):
            return 0
        frames = int(encoder.output_lengths(samples).sum())
        return frames * encoder.num_layers * encoder.dim * self.dtype.itemsize + (
            _HEADER_BYTES * len(samples)
        )

    def require(self, more: int) -> None:
        """Refuse to start what will not fit.

        Parameters
        ----------
        more : int
            Bytes about to be added, see `estimate_bytes`.

        Raises
        ------
        CacheFull
            With both numbers and the ways out.
        """
        used = self.used_bytes()
        if self.max_bytes is not None and used + more > self.max_bytes:
            raise CacheFull(
                f"the feature cache {self.folder} holds {_size(used)} and needs {_size(more)} "
                f"more, above its limit of {_size(self.max_bytes)}: raise `cache.max_gib`, tap "
                "fewer layers, or set `cache: off`"
            )
        existing = next(p for p in [self.folder, *self.folder.parents] if p.exists())
        free = shutil.disk_usage(existing).free
        if more > free:
            raise CacheFull(
                f"the feature cache needs {_size(more)} more and {existing} has {_size(free)} "
                "free: free some space, move the work folder, or set `cache: off`"
            )

    @contextmanager
    def writer(self, rank: int = 0) -> Iterator[CacheWriter]:
        """Open for adding features; several ranks may write side by side.

        Parameters
        ----------
        rank : int
            Of this process; names its shards and its index.

        Yields
        ------
        CacheWriter
            Clips added are on disk when a shard is full, and all of them when the block ends.

        Raises
        ------
        CacheError
            If another process writes as the same rank.
        CacheFull
            If the limit or the disk is reached; finished shards stay usable.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / f"rank{rank}.lock") as state:
            if state == "taken":
                raise CacheError(
                    f"another process is writing to {self.folder} as rank {rank}: wait "
                    "for it, or give each process a rank of its own"
                )
            remove_leftovers(self.folder, f"rank{rank}")
            if state == "held":
                remove_other_leftovers(self.folder, rank)
            self.reload()
            writer = CacheWriter(self, rank)
            try:
                yield writer
            except CacheError:
                raise
            except BaseException:
                writer.flush()  # what is computed is kept, whatever stopped the caller
                raise
            else:
                writer.flush()


class CacheWriter:
    """Adds clips to a `FeatureCache`; made by `FeatureCache.writer`.

    Parameters
    ----------
    cache : FeatureCache
        What is added to.
    rank : int
        Of this process; names its shards and its index.
    """

    def __init__(self, cache: FeatureCache, rank: int) -> None:
        self.cache = cache
        self.name = f"rank{rank}"
        self._pending: dict[str, Tensor] = {}
        self._bytes = 0
        self._next = next_number(cache.folder, self.name)

    def add(self, key: str, frames: Tensor) -> None:
        """Add a clip; a key that is there already is left as it is.

        Parameters
        ----------
        key : str
            `Row.audio_key` of the clip.
        frames : Tensor (L, T, D), float
            Without padding.

        Raises
        ------
        ValueError
            For another shape, or frames that are not finite.
        CacheFull
            If the shard that this clip fills does not fit.
        """
        if key in self.cache or key in self._pending:
            return
        if frames.dim() != 3 or not frames.shape[1]:
            raise ValueError(f"features of {key}: expected (L, T, D), got {tuple(frames.shape)}")
        stored = frames.detach().to("cpu", self.cache.dtype).contiguous().clone()
        if not torch.isfinite(stored).all():
            raise ValueError(
                f"features of {key} are not finite in {stored.dtype}: look at the audio, or use "
                "bfloat16 or float32 for the encoder and the cache"
            )
        self._pending[key] = stored
        self._bytes += stored.nbytes
        if self._bytes >= self.cache.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last shard.

        Raises
        ------
        CacheFull
            If it does not fit.
        """
        if not self._pending:
            return
        # Dropped first: after a failure nothing half-done may be written again at exit.
        pending, self._pending, size, self._bytes = self._pending, {}, self._bytes, 0
        self.cache.require(size)
        try:
            shard = write_shard(self.cache.folder, self.name, self._next, pending)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            remove_leftovers(self.cache.folder, self.name)
            raise CacheFull(
                f"no space left for the feature cache {self.cache.folder}: {len(self.cache)} "
                "clips are written and stay usable; free some space and start again, it goes on "
                "where it stopped"
            ) from error
        self._next += 1
        for key, frames in pending.items():
            self.cache._index[key] = (shard, frames.shape[1])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
