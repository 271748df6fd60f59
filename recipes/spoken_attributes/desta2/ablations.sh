# Sourced by egs/spoken_attributes/desta2/ablations.sh: `ablation NAME OVERRIDE...`, the first being what
# the others are compared with. Each changes one thing; README.md says what for.
# shellcheck shell=bash
ablation base
ablation last_layer 'encoder.encoder.layers=[3]'
ablation no_transcript interleaver.transcript=none
ablation warm_start_only phases.train=null
ablation no_warm_start phases.pretrain=null
# Half the queries, and a warm start on the half of the line that fits into them.
ablation fewer_queries projector.num_queries=20 \
    'sets.attributes.describe.attributes=[gender, pitch, volume, speaking_speed]' \
    'sets.attributes_dev.describe.attributes=[gender, pitch, volume, speaking_speed]'
ablation other_teacher \
    'teacher.llm=!new:toolkit.llms.CausalLM {source: wheel:qwen2.5-coder-0.5b-instruct}'
ablation no_attributes 'describe.attributes=[]' 'teacher.faithful=[]' phases.pretrain=null
ablation teacher_logits phases.train.losses.behaviour.weight=1.0
ablation lora \
    'llm.lora={r: 16, target_modules: [q_proj, v_proj]}' 'phases.train.trainable=[projector, llm]'
