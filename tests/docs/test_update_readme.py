"""README results come from score files, and only from real runs."""

from __future__ import annotations

import json

import pytest
from pages import ROOT
from test_commands import load_script

UPDATE = load_script(ROOT / "docs" / "update_readme.py")


def write_run(exp, seed, wer, smoke=False):
    folder = exp / f"seed{seed}"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "curves.png").write_bytes(b"png")
    values = {"wer": wer, "rouge_l": 0.5, "perplexity": 4.0}
    entry = {m: {"value": v, "low": v - 0.1, "high": v + 0.1} for m, v in values.items()}
    scores = {
        "normaliser": "english",
        "smoke": smoke,
        "seed": seed,
        "sets": {"recorded": {"speech": {**entry, "heard_wer": entry["wer"]}, "text": entry}},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "times.json").write_text(json.dumps({"train": 120.0, "decode": 60.0}))


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "recipes" / "corpus" / "method").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        "above\n<!-- results:corpus/method -->\nold\n<!-- /results -->\nbelow\n"
    )
    exp = tmp_path / "work" / "exp" / "corpus" / "method"
    exp.mkdir(parents=True)
    (exp / "RESULTS.md").write_text("# Results\n\n![train](seed1/train/curves.png)\n")
    return tmp_path, exp


def run(repository, exp):
    return UPDATE.main([str(exp), "--root", str(repository)])


def test_one_seed_shows_intervals(repository):
    root, exp = repository
    write_run(exp, 1, 0.25)
    assert run(root, exp) == 0
    text = (root / "README.md").read_text()
    assert text.startswith("above\n<!-- results:corpus/method -->\n|")
    assert text.endswith("<!-- /results -->\nbelow\n")
    heard = "0.250 [0.150, 0.350]"
    rest = "0.500 [0.400, 0.600] | 4.00 [3.90, 4.10] |"
    assert f"| **speech** (this model) | {heard} | {heard} | {rest}" in text
    assert f"| gold transcript (text topline) | {heard} | - | {rest}" in text
    assert "\nold\n" not in text and "3 minutes a run" in text
    report = root / "recipes" / "corpus" / "method" / "RESULTS.md"
    assert "](results/seed1_train_curves.png)" in report.read_text()
    assert (report.parent / "results" / "seed1_train_curves.png").read_bytes() == b"png"
    before = text
    assert run(root, exp) == 0
    assert (root / "README.md").read_text() == before


def test_several_seeds_show_their_spread(repository):
    root, exp = repository
    write_run(exp, 1, 0.2)
    write_run(exp, 2, 0.4)
    assert run(root, exp) == 0
    assert "| 0.300 ± 0.141 | 0.300 ± 0.141 | 0.500 ± 0.000 |" in (root / "README.md").read_text()


def test_smoke_and_missing_runs_are_refused(repository, capsys):
    root, exp = repository
    assert run(root, exp) == 1
    assert "run stages 8 and 9" in capsys.readouterr().err
    write_run(exp, 1, 0.2, smoke=True)
    assert run(root, exp) == 1
    assert "smoke" in capsys.readouterr().err
    assert "old" in (root / "README.md").read_text()


def test_the_recipes_own_page_is_filled_where_it_has_the_block(repository):
    root, exp = repository
    write_run(exp, 1, 0.25)
    (root / "README.md").write_text("nothing\n")
    page = root / "recipes" / "corpus" / "method" / "README.md"
    page.write_text("<!-- results:corpus/method -->\n<!-- /results -->\n")
    assert run(root, exp) == 0
    assert (root / "README.md").read_text() == "nothing\n"
    assert "| 0.250 [0.150, 0.350] |" in page.read_text()
    assert (page.parent / "RESULTS.md").exists()


def test_a_block_without_an_end_is_refused(repository, capsys):
    root, exp = repository
    write_run(exp, 1, 0.2)
    (root / "README.md").write_text("<!-- results:corpus/method -->\n")
    assert run(root, exp) == 1
    assert "<!-- /results -->" in capsys.readouterr().err


def test_the_generalisation_benchmark_alone_is_taken_from_a_tagged_run(repository, capsys):
    root, exp = repository
    tagged = exp.with_name("method_grid")
    write_run(tagged, 1, 0.25)
    given = [str(tagged), "--generalisation-of", "method", "--root", str(root)]
    page = root / "recipes" / "corpus" / "method" / "README.md"
    page.write_text("<!-- generalisation:corpus/method -->\nold\n<!-- /generalisation -->\n")
    assert UPDATE.main(given) == 1
    assert "decode.grid=[SET]" in capsys.readouterr().err
    path = tagged / "seed1" / "scores.json"
    scores = json.loads(path.read_text())
    cell = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {
        "quality": {"seen": cell}, "following": {"seen": cell}, "pg": cell, "tg": cell,
        "spread": 0.1, "worst": None,
        "cells": {"title": {"seen": True, "utterances": 4, "quality": [0.5, 0.25]}},
    }  # fmt: skip
    scores["generalisation"] = {"recorded": {"speech": entry, "text": entry}}
    path.write_text(json.dumps(scores))
    (path.parent / "recorded.png").write_bytes(b"heat")
    before = (root / "README.md").read_text()
    assert UPDATE.main(given) == 0
    text = page.read_text()
    assert "\nold\n" not in text and "recorded, seed 1, 8 questions:" in text
    assert "| **speech** (this model) | 0.50 / 0.50 | 0.50 [0.40, 0.60]" in text
    assert "](generalisation_recorded.png)" in text
    assert (page.parent / "generalisation_recorded.png").read_bytes() == b"heat"
    assert (root / "README.md").read_text() == before
    assert not (page.parent / "RESULTS.md").exists()
