"""Models of the hub are used from its cache alone after stage 1: ``HF_HUB_OFFLINE=1``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import copy_until
from tiny_models import save_llama, save_whisper

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_into_cache(folder: Path, cache: Path, name: str) -> None:
    """Lay a model out as a download leaves it: blobs, a snapshot of links to them, and a ref."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        blob = repo / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """Environment of a machine without a network whose hub cache has a Whisper and a Llama."""
    cache = tmp_path / "hub"
    put_into_cache(save_whisper(tmp_path / "whisper"), cache, "tiny/whisper")
    put_into_cache(save_llama(tmp_path / "llm"), cache, "tiny/llama")
    shutil.rmtree(tmp_path / "whisper")
    shutil.rmtree(tmp_path / "llm")
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        # Whoever does not ask whether there is a network gets none all the same.
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }


def toolkit(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "toolkit", *words], cwd=folder, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip


SOURCES = ("whisper=hub:tiny/whisper", "llm_source=hub:tiny/llama")


@pytest.mark.slow
def test_all_stages_run_from_the_hubs_cache(recipe, finished, tmp_path, offline):
    copy_until(finished, tmp_path, "data")
    done = toolkit(tmp_path, offline, "run", str(recipe), *SOURCES, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "work/exp/tiny/mtbi/seed1"
    marked = {path.stem for path in (run / "marks").glob("*.json")}
    assert marked >= {"annotate", "teach", "cache", "pretrain", "train", "decode", "export"}
    # Features and exports are keyed by the commit, not by where the cache lies.
    assert any(COMMIT[:16] in path.read_text() for path in (run / "export").glob("*.json"))
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores["sets"]["tones"]) >= {"speech", "text", "asr"}
    code = (
        "from toolkit.inference import SpeechLLM; "
        f"print(SpeechLLM.from_pretrained({str(run / 'export')!r}).facts['phase'])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=offline, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "train", loaded.stderr


@pytest.mark.slow
def test_what_the_cache_lacks_is_named_with_the_remedy(recipe, tmp_path, offline):
    words = ("run", str(recipe), "whisper=hub:tiny/other", SOURCES[1], "--device", "cpu")
    done = toolkit(tmp_path, offline, *words, "--stage", "1", "--stop-stage", "1")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "tiny/other" in done.stderr and "HF_HUB_OFFLINE" in done.stderr
