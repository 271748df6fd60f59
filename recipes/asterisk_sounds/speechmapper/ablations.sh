# Sourced by egs/asterisk_sounds/speechmapper/ablations.sh: `ablation NAME OVERRIDE...`, the first
# being what the others are compared with. README.md says what each is for.
# shellcheck shell=bash
ablation paper contrast=0.0
# One thing more than the paper's loss: a contrast against sampled embeddings, the cosine between
# whitened embeddings, a CTC head on the first block that fades.
ablation contrast contrast=5.0
ablation whitened contrast=0.0 phases.pretrain.losses.cosine.space=whitened
ablation ctc contrast=0.0 \
    '+projector.ctc=!new:toolkit.projectors.CTCEmbedding {input_dim: 512, output_dim: !ref <llm.dim>, embeddings: !ref <llm_source>, num_layers: 0, strides: [1]}' \
    '+phases.pretrain.losses.ctc=!new:toolkit.losses.EmbeddingCTC {weight: !new:toolkit.losses.Linear {start: 100.0, end: 0.0, finish: 0.5}}'
