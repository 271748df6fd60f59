"""A corpus of any size that takes next to no room: manifest, audio files, feature index.

Everything that names audio is real: a file for each row, the table of what they hash to, an index
that holds every row's key. What would take room is not: the files are links to a few bytes, the
shards are empty.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.data.digests import keep_digests
from toolkit.data.manifest import read_manifest

_WORDS = "please hold the line press one two star leave message for an agent or wait here".split()
_FILES_A_FOLDER = 1000
#: Clips of seven seconds in 64 MiB, as Whisper tiny's frames in bfloat16.
_CLIPS_A_SHARD = 250
#: Long ago: digests of files just written are not kept.
_MTIME = 1_600_000_000


@dataclass
class Corpus:
    """Where the parts of a synthetic corpus lie.

    Attributes
    ----------
    folder : Path

    Example
    -------
    >>> Corpus(Path("corpus")).manifest.as_posix()
    'corpus/train.jsonl'
    """

    folder: Path
    #: Of the feature cache, in place of an encoder's.
    fingerprint = "synthetic"

    @property
    def manifest(self) -> Path:
        """One line for each row."""
        return self.folder / "train.jsonl"

    @property
    def digests(self) -> Path:
        """Table of the audio files' digests."""
        return self.folder / "audio_digests.txt"

    @property
    def cache(self) -> Path:
        """Root of the feature cache."""
        return self.folder / "cache"


def write_manifest(path: Path, rows: int, seed: int = 0, audio: Path = Path("/audio")) -> None:
    """A manifest of distinct texts and varied lengths.

    Parameters
    ----------
    path : Path
    rows : int
    seed : int
    audio : Path
        Folder of the audio files, which are not written.
    """
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as stream:
        for i in range(rows):
            words = rng.choices(_WORDS, k=rng.randint(3, 30))
            row = {
                "id": f"utterance-{i:08d}",
                "audio": f"{audio}/{i // _FILES_A_FOLDER:05d}/{i:08d}.flac",
                "duration": round(0.4 * len(words) + rng.random(), 3),
                "text": f"{' '.join(words)} {i}", "language": "en", "speaker": f"s{i % 2000}",
                # All files hold the same bytes: the offset makes every row's key its own.
                "offset": round(0.001 * (i + 1), 3),
            }  # fmt: skip
            stream.write(json.dumps(row) + "\n")


def write_corpus(corpus: Corpus, rows: int) -> None:
    """Write all parts; takes about three minutes and 500 MB for a million rows.

    Parameters
    ----------
    corpus : Corpus
        Its folder is created.
    rows : int
    """
    audio = corpus.folder / "audio"
    for number in range(0, rows, _FILES_A_FOLDER):
        folder = audio / f"{number // _FILES_A_FOLDER:05d}"
        folder.mkdir(parents=True)
        first = folder / f"{number:08d}.flac"
        first.write_bytes(b"no sound")
        os.utime(first, (_MTIME, _MTIME))
        for i in range(number + 1, min(number + _FILES_A_FOLDER, rows)):
            os.link(first, folder / f"{i:08d}.flac")
    write_manifest(corpus.manifest, rows, audio=audio)
    keep_digests(corpus.digests)
    try:
        keys = [row.audio_key() for row in read_manifest(corpus.manifest)]
    finally:
        keep_digests(None)
    shards = corpus.cache / f"{corpus.fingerprint}-bfloat16"
    shards.mkdir(parents=True)
    with open(shards / "rank0.jsonl", "w", encoding="utf-8") as index:
        for i, key in enumerate(keys):
            shard = f"rank0-{i // _CLIPS_A_SHARD:05d}.safetensors"
            if i % _CLIPS_A_SHARD == 0:
                (shards / shard).touch()
            index.write(json.dumps({"key": key, "shard": shard, "frames": 350}) + "\n")


def main(argv: Sequence[str]) -> None:
    """``python -m toolkit.bench.synthetic FOLDER ROWS``."""
    write_corpus(Corpus(Path(argv[0]).absolute()), int(argv[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
