"""The page on speed repeats a measurement's file, and says when it is of too little."""

from __future__ import annotations

import json

import pytest
from pages import ROOT
from test_commands import load_script

UPDATE = load_script(ROOT / "docs" / "update_bench.py")


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/bench.md").write_text("above\n<!-- bench -->\nold\n<!-- /bench -->\nbelow\n")
    return tmp_path


def measured(repository, utterances: int, repeats: int):
    row = {
        "audio_per_second": 2.5, "ratio": 1.0, "padding": 0.25, "peak_mib": 900.0,
        "ceiling_share": 0.5, "vectors_per_second": 2.0, "frames_per_second": 50.0,
        "share": {"data": 0.1, "encoder": 0.2, "projector": 0.3, "llm": 0.4},
    }  # fmt: skip
    result = {
        "recipe": "corpus/method", "utterances": utterances, "audio_seconds": 20.0,
        "batch_size": 8, "repeats": repeats, "projector_weights": "train", "not_applicable": [],
        "machine": {"device": "a machine", "threads": 2, "commit": "0123456789abcdef"},
        "gflops": {"float32": 100.0}, "variants": {"baseline": row},
    }  # fmt: skip
    path = repository / "bench.json"
    path.write_text(json.dumps(result))
    return path


def page(repository, path) -> str:
    assert UPDATE.main([str(path), "--root", str(repository)]) == 0
    text = (repository / "docs/bench.md").read_text()
    assert text.startswith("above\n<!-- bench -->\n") and text.endswith("<!-- /bench -->\nbelow\n")
    assert "old" not in text
    return text


def test_the_block_is_the_file(repository):
    text = page(repository, measured(repository, utterances=24, repeats=3))
    assert "`corpus/method` at commit 0123456789ab." in text and "first look" not in text
    assert "24 utterances, 20.0 s of audio, batches of 8, medians of 3" in text
    assert "| baseline | 2.50 | 1.0x | 10% | 20% | 30% | 40% | 25% | 900 | 50% |" in text
    assert "# Speed" not in text


def test_a_small_measurement_says_that_it_is_one(repository):
    text = page(repository, measured(repository, utterances=4, repeats=1))
    assert "4 utterances in 1 batch a pass, 1 pass" in text and "cannot show" in text
    text = page(repository, measured(repository, utterances=24, repeats=2))
    assert "24 utterances in 3 batches a pass, 2 passes" in text and "cannot show" not in text


def test_what_is_no_measurement_is_refused(repository, capsys):
    assert UPDATE.main([str(repository / "none.json"), "--root", str(repository)]) == 1
    path = measured(repository, 4, 1)
    (repository / "docs/bench.md").write_text("no markers")
    assert UPDATE.main([str(path), "--root", str(repository)]) == 1
    assert "<!-- bench -->" in capsys.readouterr().err
