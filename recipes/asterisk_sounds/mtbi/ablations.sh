# Sourced by egs/asterisk_sounds/mtbi/ablations.sh: `ablation NAME OVERRIDE...`, the first being what
# the others are compared with. Each changes one thing; README.md says what for.
# shellcheck shell=bash
ablation base
# Interleaving: off, by each place of the cut, each policy of the spans, and as a curriculum.
ablation no_interleaving interleaver.probability=0.0
ablation cut_after_encode interleaver.cut=after_encode
ablation cut_before_encode interleaver.cut=before_encode cache=off
ablation spans_bernoulli interleaver.policy=bernoulli
ablation spans_segments interleaver.policy=segments interleaver.segments=2
ablation curriculum interleaver.probability=1.0 \
    'interleaver.curriculum={start: [0.1, 0.4], end: [0.9, 1.0]}'
# What is imitated: the answers (base), the text branch's distribution, both.
ablation kl phases.train.losses.response.weight=0.0 \
    phases.train.losses.behaviour.weight=1.0 phases.train.select=imitation_dev/behaviour
ablation ce_and_kl phases.train.losses.behaviour.weight=1.0
# How many tasks: one of them (not repetition, which asr_only is), and continuation alone without interleaving (BLSP).
ablation one_task 'teacher.pool=!new:toolkit.teachers.pool.InstructionPool {only: [intent]}'
ablation blsp interleaver.probability=0.0 \
    'teacher.pool=!new:toolkit.teachers.pool.InstructionPool {only: [continuation]}'
# The negative control: recognition with gold transcripts, no imitation.
ablation asr_only interleaver.probability=0.0 phases.train.data.imitation=null \
    +phases.train.data.asr=1.0 'phases.train.validation=[asr_dev]' phases.train.select=asr_dev/response \
    '+sets.asr=!new:toolkit.data.TranscriptionSet {manifests: [!ref <recorded>/train.jsonl], instructions: ["Repeat the following sentence word for word:"], max_seconds: !ref <encoder.max_seconds>}' \
    '+sets.asr_dev=!new:toolkit.data.TranscriptionSet {manifests: [!ref <recorded>/dev.jsonl], instructions: ["Repeat the following sentence word for word:"], max_seconds: !ref <encoder.max_seconds>}'
# The warm start: without it, and nothing but it.
ablation no_warm_start phases.pretrain=null
ablation warm_start_only phases.train=null
