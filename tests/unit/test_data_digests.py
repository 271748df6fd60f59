"""Digests of audio on disk: files are read once, never believed when changed, whatever happens."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.data.digests import DigestTable
from toolkit.files import sha256_of

LONG_AGO = 1_600_000_000_000_000_000

#: Keys of a manifest's rows in a process of its own, and how often it opened an audio file.
KEYS = """
import json, sys
opened = []
sys.addaudithook(
    lambda event, args: event == "open" and str(args[0]).endswith(".wav") and opened.append(args[0])
)
from toolkit.data.digests import keep_digests
from toolkit.data.manifest import read_manifest
keep_digests(sys.argv[1])
for path in sys.argv[2:]:
    keys = [row.audio_key() for row in read_manifest(path)]
    print(json.dumps([keys, len(opened)]))
"""


def start(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-c", KEYS, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answers(process: subprocess.Popen) -> tuple[list, str]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()], err


def write(path: Path, content: bytes, mtime_ns: int = LONG_AGO) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def write_manifest(path: Path, wavs: list[Path]) -> Path:
    rest = {"duration": 1, "text": "", "language": "en", "speaker": "s"}
    rows = [{"id": str(i), "audio": str(wav), **rest} for i, wav in enumerate(wavs)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def digest(table: DigestTable, path: Path) -> str:
    stat = os.stat(path)
    return table.digest(str(path), stat.st_size, stat.st_mtime_ns)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wavs(tmp_path):
    return [write(tmp_path / f"{i}.wav", b"sound %d" % i) for i in range(10)]


@pytest.fixture
def table(tmp_path, wavs):
    """File of a table that knows all wavs."""
    path = tmp_path / "work" / "digests.txt"
    first = DigestTable(path)
    for wav in wavs:
        digest(first, wav)
    first.close()
    return path


@pytest.fixture
def read(monkeypatch):
    """Paths that were hashed."""
    paths = []

    def counted(path):
        paths.append(Path(path).name)
        return sha256_of(path)

    monkeypatch.setattr("toolkit.data.digests.sha256_of", counted)
    return paths


def test_a_second_start_opens_no_audio(tmp_path, wavs):
    manifest = write_manifest(tmp_path / "m.jsonl", wavs)
    table = tmp_path / "digests.txt"
    ((keys, opened),), _ = answers(start(table, manifest))
    assert opened == len(set(keys)) == 10
    assert answers(start(table, manifest))[0] == [[keys, 0]]
    write(wavs[3], b"other", LONG_AGO + 1)
    ((changed, opened),), _ = answers(start(table, manifest))
    assert opened == 1 and [a == b for a, b in zip(keys, changed, strict=True)].index(False) == 3


@pytest.mark.parametrize(
    ("content", "mtime_ns"),
    [(b"Sound 2", LONG_AGO + 1), (b"Sound 2", LONG_AGO - 1), (b"sound 2 and more", LONG_AGO)],
    ids=["later", "earlier", "longer"],
)
def test_a_changed_file_is_read_again(table, wavs, read, content, mtime_ns):
    before = sha256(wavs[2])
    write(wavs[2], content, mtime_ns)
    assert digest(DigestTable(table), wavs[2]) == sha256(wavs[2]) != before
    # The newer line counts from now on.
    again = DigestTable(table)
    assert all(digest(again, wav) == sha256(wav) for wav in wavs)
    assert read == ["2.wav"]


def test_a_file_just_written_is_not_believed_by_later_starts(tmp_path, table, read):
    new = tmp_path / "new.wav"
    new.write_bytes(b"1")
    first = DigestTable(table)
    assert digest(first, new) == digest(first, new) == sha256(new)
    digest(DigestTable(table), new)
    assert read == ["new.wav"] * 2 and "new.wav" not in table.read_text()


def test_two_processes_at_once_lose_nothing(tmp_path, caplog):
    wavs = [write(tmp_path / f"{i}.wav", b"sound %d" % i) for i in range(600)]
    # Each begins at its own end, so both write until they meet, and then the same lines again.
    manifests = [
        write_manifest(tmp_path / "a.jsonl", wavs), write_manifest(tmp_path / "b.jsonl", wavs[::-1])
    ]  # fmt: skip
    path = tmp_path / "digests.txt"
    processes = [start(path, manifest) for manifest in manifests]
    ((forth, _),), ((back, _),) = (answers(process)[0] for process in processes)
    assert forth == back[::-1]
    assert answers(start(path, *manifests))[0] == [[forth, 0], [back, 0]]
    with caplog.at_level(logging.WARNING):
        assert len(DigestTable(path)) == 600
    assert not caplog.records


def torn(content: bytes) -> bytes:
    return content[:-40]


def flipped(content: bytes) -> bytes:
    place = content.index(b"\n") + 20
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def glued(content: bytes) -> bytes:
    first, second, rest = content.split(b"\n", 2)
    return first[:50] + second + b"\n" + rest


def overwritten(content: bytes) -> bytes:
    return bytes(range(256)) * (len(content) // 256)


@pytest.mark.parametrize(
    ("damage", "lost"), [(torn, 1), (flipped, 1), (glued, 2), (overwritten, 10)]
)
def test_a_damaged_table_is_rebuilt(table, wavs, read, caplog, damage, lost):
    whole = sorted(table.read_bytes().splitlines())
    table.write_bytes(damage(table.read_bytes()))
    for _ in range(2):
        # What is missing is hashed; a torn end is only told from a line being written next time.
        again = DigestTable(table)
        assert all(digest(again, wav) == sha256(wav) for wav in wavs)
    assert len(read) == lost
    assert [record.message for record in caplog.records] == [
        message for message in caplog.messages if "damaged" in message
    ]
    assert len(caplog.records) == 1
    assert sorted(table.read_bytes().splitlines()) == whole
    assert not list(table.parent.glob(".*"))


def test_an_empty_table_and_a_line_being_written_are_no_damage(table, wavs, read, caplog):
    table.write_bytes(b"")
    assert digest(DigestTable(table), wavs[0]) == sha256(wavs[0])
    line = table.read_bytes()
    table.write_bytes(line[:30])
    other = DigestTable(table)
    assert len(other) == 0
    table.write_bytes(line)  # its writer has finished
    digest(other, wavs[1])
    again = DigestTable(table)
    assert len(again) == 2 and not caplog.records


def test_lines_of_files_that_changed_do_not_pile_up(table, wavs):
    line = table.read_bytes().splitlines(keepends=True)[0]
    table.write_bytes(table.read_bytes() + 2000 * line)
    assert len(DigestTable(table)) == 10
    assert len(table.read_bytes().splitlines()) == 10


def test_a_table_that_another_process_wrote_anew_is_appended_to(tmp_path, table, wavs):
    """Not the file that had its name before: what is added there is nobody's."""
    running = DigestTable(table)
    digest(running, write(tmp_path / "early.wav", b"early"))
    table.write_bytes(table.read_bytes() + b"no line of ours\n")
    assert len(DigestTable(table)) == 11
    digest(running, write(tmp_path / "late.wav", b"late"))
    assert len(DigestTable(table)) == 12
    table.unlink()
    digest(running, write(tmp_path / "later.wav", b"later"))
    assert len(DigestTable(table)) == 1


@pytest.mark.parametrize("what", ["a folder", "below a file"])
def test_a_table_that_cannot_be_used_is_only_a_warning(tmp_path, wavs, caplog, what):
    path = tmp_path if what == "a folder" else wavs[0] / "digests.txt"
    table = DigestTable(path)
    assert all(digest(table, wav) == sha256(wav) for wav in wavs)
    (record,) = caplog.records
    assert "reads all audio again" in record.message


def test_a_missing_file_and_names_that_do_not_fit_a_line(tmp_path, table, monkeypatch):
    with pytest.raises(FileNotFoundError):
        DigestTable(table).digest(str(tmp_path / "gone.wav"), 1, 1)
    before = table.read_bytes()
    odd = write(tmp_path / "a\nb.wav", b"1")
    monkeypatch.chdir(tmp_path)
    near = write(Path("relative.wav"), b"2")
    first = DigestTable(table)
    assert digest(first, odd) == sha256(odd) and digest(first, near) == sha256(near)
    assert table.read_bytes() == before
    spaced = write(tmp_path / os.fsdecode(b"a  b \xff.wav"), b"3")
    digest(first, spaced)
    assert table.read_bytes() != before and len(DigestTable(table)) == 11
