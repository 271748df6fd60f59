"""Grids: what a setting does not touch is made once, and taken over by the other runs."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import copy_until

from toolkit.config import ConfigError
from toolkit.evaluation.merge import merge
from toolkit.evaluation.merged_tables import markdown
from toolkit.pipeline.marks import Marks
from toolkit.pipeline.runner import RunOptions, run
from toolkit.pipeline.stages.report import render
from toolkit.training.record import read_lines

EXPERIMENTS = Path("work/exp/tiny")
BASE = EXPERIMENTS / "mtbi" / "seed1"
SMALL = ("phases.pretrain.optimizer_steps=2", "phases.train.optimizer_steps=1",
         "phases.train.validate_every=1", "decode.inputs=[speech, text]",
         "decode.items_per_task=1")  # fmt: skip


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def started(caplog) -> Counter:
    return Counter(
        m[2] for m in (re.match(r"stage (\d+) (\w+): START", t) for t in messages(caplog)) if m
    )


@pytest.mark.slow
def test_a_grid_of_two_by_two_by_three_seeds_makes_stages_2_to_5_once(
    recipe, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "toolkit"):
        for width, share in itertools.product((16, 24), (0.0, 0.5)):
            overrides = [f"projector.hidden_dim={width}", f"interleaver.probability={share}"]
            run(
                RunOptions(
                    recipe, overrides=[*overrides, *SMALL], tag=f"w{width}_p{share}",
                    seeds=[1, 2, 3], reuse=EXPERIMENTS, stage="prepare", stop_stage="score",
                )
            )  # fmt: skip
    count = started(caplog)
    assert {name: count[name] for name in ("prepare", "annotate", "teach", "cache")} == {
        "prepare": 1, "annotate": 1, "teach": 1, "cache": 1,
    }  # fmt: skip
    # The interleaver is no part of the warm start; width and seed are.
    assert (count["pretrain"], count["train"], count["score"]) == (2 * 3, 12, 12)
    # The text LLM read each item of the test sets once, not once for each of the twelve runs.
    decoded = (EXPERIMENTS / "mtbi_w16_p0.0" / "seed1" / "decode").glob("*.text.jsonl")
    asked = sum(len(read_lines(path)) for path in decoded)
    assert len(read_lines(Path("work/targets/text_branch.jsonl"))) == asked > 0
    merged = merge([EXPERIMENTS], resamples=20)
    assert [group.seeds for group in merged.groups] == [[1, 2, 3]] * 4
    assert set(merged.changed) == {"projector.hidden_dim", "interleaver.probability"}
    assert all(
        cell.spread is not None and cell.difference is not None
        for name, cells in list(merged.sets["tones"]["speech"].items())[1:]
        for cell in cells.values()
    )
    assert "w24_p0.5" in markdown(merged)


@pytest.fixture
def again(finished, tmp_path, stages):
    copy_until(finished, tmp_path, "*")
    return stages


def test_a_warm_start_is_taken_over_where_its_settings_are_the_same(again, caplog, capsys):
    plain = ["interleaver.probability=0.0"]
    again(2, 7, plain, tag="plain", reuse=EXPERIMENTS, dry_run=True)
    plan = capsys.readouterr().out
    assert re.findall(r"^ +\d+ (\w+) +reuse", plan, re.M) == [
        "prepare", "annotate", "teach", "cache", "pretrain",
    ]  # fmt: skip
    assert f"from {BASE}" in plan and not (EXPERIMENTS / "mtbi_plain").exists()
    with caplog.at_level("INFO", "toolkit"):
        own = again(
            2, 9, [*plain, "decode.inputs=[speech, text]"], tag="plain", reuse=EXPERIMENTS
        ).exp
    assert started(caplog) == {"train": 1, "decode": 1, "score": 1}
    assert Marks(own).read("pretrain")["facts"]["taken_from"] == str(BASE)
    for name in ("pretrain/train_log.jsonl", "targets.jsonl", "topline.json"):
        assert (own / name).read_bytes() == (BASE / name).read_bytes()
    best = own / "pretrain" / "best"
    assert best.is_symlink() and own.resolve() in best.resolve().parents
    taken = "Taken over from other runs: prepare, annotate, teach, cache, pretrain."
    assert taken in render("tiny/mtbi", [own]) and taken not in render("tiny/mtbi", [BASE])
    # More steps go on here, and leave what they began with as it was.
    before = (BASE / "pretrain/train_log.jsonl").read_bytes()
    again(6, 6, [*plain, "phases.pretrain.optimizer_steps=8"], tag="plain", reuse=EXPERIMENTS)
    assert len(read_lines(own / "pretrain/train_log.jsonl")) == 8
    assert (BASE / "pretrain/train_log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "taken"),
    [
        (["projector.hidden_dim=24"], ["prepare", "annotate", "teach", "cache"]),
        (["teacher.max_new_tokens=8"], ["prepare", "annotate", "cache", "pretrain"]),
        (["phases.pretrain.optimizer_steps=7"], ["prepare", "annotate", "teach", "cache"]),
        (["seed=2"], ["prepare", "annotate", "teach", "cache"]),
        (["encoder.layers=[0]"], ["prepare", "annotate", "teach"]),
        (["phases.pretrain=null"], ["prepare", "annotate", "teach", "cache"]),
        # A warm start reads the embedding table; adapters are of the body, which the teacher runs.
        (["llm.lora={r: 2, target_modules: [q_proj]}"],
         ["prepare", "annotate", "cache", "pretrain"]),
        # Not where a term of it runs the body.
        (["llm.lora={r: 2, target_modules: [q_proj]}", "+phases.pretrain.losses.response="
          "!new:toolkit.losses.ResponseCrossEntropy {weight: 1.0}"],
         ["prepare", "annotate", "cache"]),
        # A set for the main phase alone; the features of all sets are asked for again.
        (["+sets.more=!new:toolkit.data.SpeechSet {manifests: [!ref <data>/dev.jsonl]}"],
         ["prepare", "annotate", "teach", "pretrain", "train"]),
        # A finished model is decoded otherwise, beside what was decoded first.
        (["decode.items_per_task=1"],
         ["prepare", "annotate", "teach", "cache", "pretrain", "train"]),
        # Other data: nothing that was made from the old is the same.
        (["+corpora.more=!name:tiny_corpus.prepare {}"], []),
    ],
)  # fmt: skip
def test_what_a_setting_touches_is_not_taken_over(again, capsys, overrides, taken):
    again(2, 11, overrides, tag="other", reuse=EXPERIMENTS, dry_run=True)
    plan = capsys.readouterr().out
    assert re.findall(r"^ +\d+ (\w+) +reuse", plan, re.M) == taken


def test_a_trained_model_is_taken_over_to_be_decoded_otherwise(again, caplog):
    decoded = (BASE / "decode" / "tones.speech.jsonl").read_bytes()
    with caplog.at_level("INFO", "toolkit"):
        own = again(
            2, 11, ["decode.inputs=[speech, text]", "decode.max_new_tokens=3"], tag="short",
            reuse=EXPERIMENTS,
        ).exp  # fmt: skip
    assert not started(caplog).keys() & {"pretrain", "train"}
    weights = Path("train/best/trainable.safetensors")
    assert (own / weights).read_bytes() == (BASE / weights).read_bytes()
    # They are its own: trained on here, they leave the others as they are.
    assert (own / weights).resolve().is_relative_to(own.resolve())
    assert (BASE / "decode" / "tones.speech.jsonl").read_bytes() == decoded
    assert (own / "decode" / "tones.speech.jsonl").read_bytes() != decoded


def test_a_run_whose_earlier_stages_changed_since_gives_nothing_that_follows(again, capsys):
    same = ["+corpora.more=!name:tiny_corpus.prepare {}"]
    again("prepare", "prepare", same, force=True)
    again(2, 7, same, tag="other", reuse=EXPERIMENTS, dry_run=True)
    plan = capsys.readouterr().out
    assert re.findall(r"^ +\d+ (\w+) +reuse", plan, re.M) == ["prepare"]


def test_begun_work_goes_on_and_a_wrong_folder_is_refused(again, capsys):
    again(2, 7, ["interleaver.probability=0.0"], tag="own", reuse=EXPERIMENTS, dry_run=True)
    capsys.readouterr()
    begun = EXPERIMENTS / "mtbi_own" / "seed1" / "pretrain"
    begun.mkdir(parents=True)
    again(6, 6, tag="own", reuse=EXPERIMENTS, dry_run=True)
    assert " 6 pretrain  run " in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no such folder"):
        again(2, 2, tag="own", reuse=Path("work/epx"))
    (BASE / "targets.jsonl").unlink()
    again(4, 4, tag="own", reuse=EXPERIMENTS, dry_run=True)
    assert " 4 teach     run " in capsys.readouterr().out
    facts = json.loads((BASE / "marks/teach.json").read_text())["facts"]
    assert "taken_from" not in facts


def test_audio_is_hashed_once_for_all_starts_and_the_index_read_once_a_start(
    finished, tmp_path, stages, monkeypatch
):
    import toolkit.data.digests as digests
    import toolkit.data.feature_store as feature_store

    hashed, read = [], []

    def noting(module, name: str, paths: list) -> None:
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path: [paths.append(path), whole(path)][1])

    noting(digests, "sha256_of", hashed)
    noting(feature_store, "json_lines_so_far", read)
    copy_until(finished, tmp_path, "data", "cache", "annotations", "targets")
    for wav in Path("work/data").rglob("*.wav"):
        os.utime(wav, (0, 0))  # files of this very moment are not believed to stay as they are
    for i, tag in enumerate("ab"):
        digests.keep_digests(None)  # a new process knows nothing
        stages("pretrain", "pretrain", SMALL, tag=tag)
        assert len(hashed) == len(set(hashed)) > 0 and len(read) == i + 1
    assert len(Path("work/audio_digests.txt").read_text().splitlines()) == len(hashed)
