"""The start of a training run on large manifests: measured parts, and no cost that grows."""

from __future__ import annotations

import pytest

import toolkit.data.digests as digests
from toolkit.bench.scale import PARTS, main, measure_all, measure_rows, scale_table
from toolkit.bench.synthetic import Corpus, write_corpus, write_manifest
from toolkit.data.feature_store import FeatureCache
from toolkit.data.manifest import read_manifest


def test_a_synthetic_manifest_is_a_valid_one_of_distinct_texts(tmp_path):
    write_manifest(tmp_path / "a.jsonl", 50)
    write_manifest(tmp_path / "b.jsonl", 50)
    rows = read_manifest(tmp_path / "a.jsonl")
    assert len(rows) == len({row.text for row in rows}) == 50
    assert len({row.duration for row in rows}) > 25
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_synthetic_corpus_has_files_digests_and_features_of_every_row(tmp_path, monkeypatch):
    corpus = Corpus(tmp_path / "corpus")
    write_corpus(corpus, 1100)
    # A digest would be computed only if the table did not know the file.
    monkeypatch.setattr(digests, "sha256_of", None)
    digests.keep_digests(corpus.digests)
    rows = read_manifest(corpus.manifest)
    keys = [row.audio_key() for row in rows]
    digests.keep_digests(None)
    cache = FeatureCache(corpus.cache, corpus.fingerprint)
    assert len(set(keys)) == len(cache) == len({row.audio for row in rows}) == 1100
    assert not cache.missing(keys)


def test_parts_add_up_and_ten_times_the_rows_do_not_cost_forty_times():
    few, many = measure_rows(300), measure_rows(3000)
    for found in (few, many):
        parts = [found[name] for name in PARTS]
        assert found["start"] == pytest.approx(sum(parts)) and min(parts) > 0
        assert found["resume"] > found["read"] + found["costs"] and found["window"] > 0
    # What one window costs does not depend on how many there are, nor what one utterance does.
    assert many["window"] < 20 * few["window"] and 0 < many["find"] < 20 * few["find"]
    assert many["start"] < 40 * few["start"]


def test_sizes_run_in_processes_of_their_own_and_make_a_table():
    (found,) = measure_all([200])
    assert found["rows"] == 200 and found["mib"] >= 0
    row = scale_table([found]).splitlines()[-1]
    assert row.startswith("| 200 | ") and f"| {found['start'] / 200 * 1e6:.0f} |" in row
    with pytest.raises(SystemExit):
        main(["0"])
