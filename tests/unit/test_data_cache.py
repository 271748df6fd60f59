"""The feature cache: what is written is read back, kills and full disks leave it whole."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from toolkit.data.cache import CacheError, CacheFull, FeatureCache, duration_batches, extract
from toolkit.data.manifest import Row
from toolkit.encoders import Encoder, EncoderOutput


class Blocks(Encoder):
    """Means over 10 ms blocks, two layers: enough to tell which audio went in."""

    dim, frame_rate, num_layers, max_seconds = 2, 100.0, 2, 3.0

    def _build(self, device, dtype):
        self.gain = torch.nn.Parameter(torch.ones(1, device=device, dtype=dtype))

    def output_lengths(self, samples):
        return (samples // 160).clamp(min=1)

    def forward(self, waveforms, lengths):
        counts = self.output_lengths(lengths)
        size = int(counts.max()) * 160
        blocks = waveforms[:, :size].unflatten(1, (-1, 160)).mean(-1) * self.gain
        frames = torch.stack([blocks, -blocks], 1)[..., None].expand(-1, -1, -1, 2)
        return EncoderOutput(frames, counts)

    def fingerprint(self):
        return "blocks"


@pytest.fixture
def rows(tmp_path):
    out = []
    for i, seconds in enumerate([0.5, 1.0, 0.25, 2.0]):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, np.full(int(16_000 * seconds), (i + 1) / 10), 16_000)
        out.append(Row(f"r{i}", str(path), seconds, "text", "en", "s"))
    return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_round_trip(tmp_path, dtype):
    cache = FeatureCache(tmp_path, "f", dtype, shard_bytes=500)
    frames = {f"k{i}": torch.randn(2, i + 1, 4) for i in range(20)}
    with cache.writer() as writer:
        for key, value in frames.items():
            writer.add(key, value)
    assert len(list(cache.folder.glob("*.safetensors"))) > 2
    again = pickle.loads(pickle.dumps(FeatureCache(tmp_path, "f", dtype)))
    assert len(again) == 20 and again.missing(["x", "k3", "x"]) == ["x"]
    for key, value in frames.items():
        torch.testing.assert_close(again.get(key), value.to(again.dtype), rtol=0, atol=0)
        assert again.frames(key) == value.shape[1]
    with pytest.raises(KeyError, match="cache stage"):
        again.get("x")
    assert len(FeatureCache(tmp_path, "other", dtype)) == 0


def test_reads_in_a_forked_child(tmp_path):
    cache = FeatureCache(tmp_path, "f", "float32")
    with cache.writer() as writer:
        writer.add("k", torch.full((1, 2, 2), 7.0))
    assert cache.get("k")[0, 0, 0] == 7
    pid = os.fork()
    if pid == 0:
        os._exit(0 if float(cache.get("k").sum()) == 28.0 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_ranks_write_side_by_side(tmp_path):
    one, two = (FeatureCache(tmp_path, "f", "float32", shard_bytes=8) for _ in range(2))
    with one.writer(0) as first, two.writer(1) as second:
        first.add("a", torch.ones(1, 1, 2))
        second.add("b", torch.ones(1, 1, 2) * 2)
        with pytest.raises(CacheError, match="as rank 1"), one.writer(1):
            pass
    one.reload()
    assert float(one.get("a").sum()) == 2 and float(one.get("b").sum()) == 4


def test_leftovers_of_a_killed_writer_go(tmp_path):
    cache = FeatureCache(tmp_path, "f", "float32", shard_bytes=8)
    with cache.writer(3) as writer:
        writer.add("a", torch.ones(1, 1, 2))
    shard = next(cache.folder.glob("rank3-*.safetensors"))
    orphan = cache.folder / "rank3-00001.safetensors"
    orphan.write_bytes(shard.read_bytes())
    partial = cache.folder / ".rank3-00002.safetensors.99.partial"
    partial.write_bytes(b"half")
    index = cache.folder / "rank3.jsonl"
    whole = index.read_bytes()
    index.write_bytes(whole + b'{"key": "b", "sha')
    assert len(FeatureCache(tmp_path, "f", "float32")) == 1  # a reader is not disturbed
    with cache.writer(0):  # another rank's start cleans up too
        pass
    assert not orphan.exists() and not partial.exists()
    assert index.read_bytes() == whole and shard.exists()


KILLED = """
import sys, torch
from toolkit.data.feature_store import FeatureCache
cache = FeatureCache(sys.argv[1], "f", "float32", shard_bytes=256)
print("ready", flush=True)
with cache.writer() as writer:
    for i in range(10**6):
        writer.add(str(i), torch.full((1, 2, 8), float(i)))
"""


def test_kill_at_any_moment(tmp_path):
    found = 0
    for wait in (0.01, 0.05, 0.11):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE
        )
        child.stdout.readline()
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        cache = FeatureCache(tmp_path, "f", "float32")
        assert len(cache) >= found  # finished shards stay
        found = len(cache)
        for key in cache._index:
            assert torch.equal(cache.get(key), torch.full((1, 2, 8), float(key)))
    assert found > 0
    with cache.writer() as writer:
        writer.add("new", torch.ones(1, 1, 1))
    indexed = {
        json.loads(line)["shard"]
        for line in (cache.folder / "rank0.jsonl").read_text().splitlines()
    }
    assert {p.name for p in cache.folder.glob("*.safetensors")} == indexed
    assert not list(cache.folder.glob("*.partial"))


def test_a_full_disk_keeps_finished_shards(tmp_path):
    cache = FeatureCache(tmp_path, "f", "float32", shard_bytes=8)
    with (
        pytest.raises(CacheFull, match="1 clips are written and stay usable"),
        cache.writer() as writer,
    ):
        writer.add("a", torch.ones(1, 1, 2))
        partial = cache.folder / f".rank0-00001.safetensors.{os.getpid()}.partial"
        partial.symlink_to("/dev/full")  # the kernel answers every write with ENOSPC
        writer.add("b", torch.ones(1, 1, 2))
    again = FeatureCache(tmp_path, "f", "float32")
    assert again.missing(["a", "b"]) == ["b"] and float(again.get("a").sum()) == 2
    with again.writer() as writer:
        writer.add("b", torch.ones(1, 1, 2))
    assert again.missing(["a", "b"]) == []


def test_limit_is_checked_before_and_while_writing(tmp_path, rows):
    encoder = Blocks().materialise()
    cache = FeatureCache(tmp_path / "c", "f", "float32", max_bytes=4_000)
    with pytest.raises(CacheFull, match="cache.max_gib"):
        extract(rows, encoder, cache, progress=False)
    with pytest.raises(CacheFull, match="above its limit"), cache.writer() as writer:
        writer.add("a", torch.zeros(1, 2_000, 2))
    assert cache.used_bytes() == 0


def test_bad_frames_are_refused(tmp_path):
    cache = FeatureCache(tmp_path, "f", "float16")
    with cache.writer() as writer:
        with pytest.raises(ValueError, match="not finite in torch.float16"):
            writer.add("a", torch.full((1, 1, 1), 1e6))
        with pytest.raises(ValueError, match="expected"):
            writer.add("a", torch.zeros(2, 2))


def test_estimate_is_close(tmp_path, rows):
    cache = FeatureCache(tmp_path / "c", "f", "float32")
    encoder = Blocks().materialise()
    extract(rows, encoder, cache, progress=False)
    estimate = cache.estimate_bytes([row.duration for row in rows], encoder)
    assert cache.used_bytes() <= estimate <= 1.2 * cache.used_bytes()


def test_extract_resumes_and_counts(tmp_path, rows):
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    soundfile.write(tmp_path / "long.wav", np.zeros(64_000), 16_000)
    extra = [
        Row("bad", str(tmp_path / "bad.wav"), 1.0, "", "en", "s"),
        Row("gone", str(tmp_path / "gone.wav"), 1.0, "", "en", "s"),
        Row("long", str(tmp_path / "long.wav"), 4.0, "", "en", "s"),
        Row("twin", rows[0].audio, rows[0].duration, "", "en", "s"),
    ]
    encoder = Blocks().materialise()
    cache = FeatureCache(tmp_path / "c", "f", "float32")
    first = extract(rows[:2], encoder, cache, batch_seconds=1.5, progress=False)
    assert first == Counter(cached=2)
    second = extract(rows + extra, encoder, cache, batch_seconds=2.0, progress=False)
    assert second == Counter(cached=2, already=3, corrupt=1, missing=1, too_long=1)
    for i, row in enumerate(rows):
        frames = cache.get(row.audio_key())
        assert frames.shape == (2, round(row.duration * 100), 2)
        torch.testing.assert_close(
            frames[0], torch.full_like(frames[0], (i + 1) / 10), atol=1e-4, rtol=0
        )
    assert encoder.training


def test_ranks_share_the_rows(tmp_path, rows):
    encoder = Blocks().materialise()
    total = Counter()
    for rank in range(2):
        cache = FeatureCache(tmp_path / "c", "f", "float32")
        total += extract(
            rows, encoder, cache, batch_seconds=1.0, progress=False, rank=rank, world_size=2
        )
    assert FeatureCache(tmp_path / "c", "f", "float32").missing(r.audio_key() for r in rows) == []
    assert total == Counter(cached=4)


def test_the_index_is_read_again_only_when_it_changed(tmp_path, monkeypatch):
    import toolkit.data.feature_store as module

    whole, read = module.json_lines_so_far, []

    def json_lines_so_far(path):
        read.append(path.name)
        return whole(path)

    def add(rank: int, key: str) -> None:
        with FeatureCache(tmp_path, "f", "float32").writer(rank) as writer:
            writer.add(key, torch.ones(1, 2, 3))

    add(0, "a")
    monkeypatch.setattr(module, "json_lines_so_far", json_lines_so_far)
    cache = FeatureCache(tmp_path, "f", "float32")
    cache.reload()
    assert read == ["rank0.jsonl"] and cache.missing("ab") == ["b"]
    for rank, key in ((0, "b"), (1, "c")):
        add(rank, key)
        cache.reload()
        assert key in cache and cache.get(key).shape == (1, 2, 3)
    del read[:]
    cache.reload()
    assert not read
    (cache.folder / "rank1-00000.safetensors").unlink()
    cache.reload()
    assert cache.missing("abc") == ["c"] and read == ["rank0.jsonl", "rank1.jsonl"]


def test_duration_batches_respect_the_budget(rows):
    batches = duration_batches(rows, 1.5)
    assert [[row.id for row in batch] for batch in batches] == [["r3"], ["r1"], ["r0", "r2"]]
