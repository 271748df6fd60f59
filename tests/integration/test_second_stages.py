"""A main phase that starts from another run's pretraining; tasks below their floor are left out."""

from __future__ import annotations

import json

import pytest
from conftest import copy_until
from tiny_recipe import HERE

from toolkit.training.record import read_lines

FIRST = "work/exp/tiny/mtbi/seed1/pretrain"
START = ["phases.pretrain=null", f"+phases.train.start={FIRST}"]
TEACHER = (
    "teacher=!new:toolkit.teachers.ReferenceTeacher {{manifests: [!ref <data>/train.jsonl, "
    "!ref <data>/dev.jsonl], pool: !apply:tiny_gold.pool {{}}, floor: {floor}, topline_items: 2, "
    "max_new_tokens: 4}}"
)


def test_a_second_stage_goes_on_where_the_pretraining_of_another_run_ended(
    finished, tmp_path, stages
):
    copy_until(finished, tmp_path, "targets", FIRST[5:])
    inputs = "decode.inputs=[speech, text, pretrained]"
    context = stages(0, "decode", [*START, inputs], tag="second")
    assert context.exp.parts[-2:] == ("mtbi_second", "seed1")
    assert not (context.exp / "pretrain").exists()
    # The same weights at the start, the same data: the same losses, digit by digit.
    own = read_lines(finished / "work/exp/tiny/mtbi/seed1/train/train_log.jsonl")
    second = read_lines(context.exp / "train" / "train_log.jsonl")
    assert [line["losses"] for line in second] == [line["losses"] for line in own]
    assert (context.exp / "decode" / "tones.pretrained.jsonl").is_file()


def test_a_start_that_is_not_there_is_named_before_the_work(tmp_path, stages, caplog):
    stages("check", "check", START)
    assert f"phases.train.start: {FIRST} holds no finished phase" in caplog.text
    with pytest.raises(FileNotFoundError, match="run the recipe that pretrains"):
        stages(0, "train", START)


def test_tasks_that_the_text_llm_does_not_carry_are_named_and_left_out(tmp_path, stages, caplog):
    caplog.set_level("INFO", "toolkit")
    context = stages(0, "teach", [TEACHER.format(floor=0.5)], user_dir=HERE)
    told = json.loads((context.exp / "topline.json").read_text())
    assert told["topline"] == {"echo": 1.0, "beyond": 0.2}
    # A task without a row to try it on is named too.
    assert told["left_out"] == ["beyond", "nobody"]
    assert "beyond     0.20  below its floor: left out" in caplog.text
    targets = read_lines(context.exp / "targets.jsonl")
    assert len(targets) == 20 and {target["task"] for target in targets} == {"echo"}


def test_without_a_task_left_the_stage_says_which_were_too_hard(tmp_path, stages):
    with pytest.raises(RuntimeError, match="below their floor on text: echo, beyond, nobody"):
        stages(0, "teach", [TEACHER.format(floor=1.5)], user_dir=HERE)
