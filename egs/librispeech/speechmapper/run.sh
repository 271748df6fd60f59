#!/usr/bin/env bash
# SpeechMapper at the paper's scale, on LibriSpeech: SeamlessM4T-v2-large, EuroLLM-9B-Instruct.
#   ./run.sh librispeech=FOLDER --stop_stage 2    on a machine with network: weights and manifests
#   ./run.sh librispeech=FOLDER --stage 3 --stop_stage 6    features and pretraining (the paper's stage 1)
#   ./run.sh librispeech=FOLDER --ngpu 4          everything, on several GPUs; ends with transcription through the LLM
#   ./run.sh librispeech=FOLDER --tag llama llm_source=hub:meta-llama/Llama-3.1-8B-Instruct \
#       'pad_token=<|finetune_right_pad_id|>'     the paper's other LLM
#   ./run.sh --help                               all options
# What it costs: toolkit show recipes/librispeech/speechmapper/train.yaml --tflops 100 --gpus 4
# The model and the data are described in recipes/librispeech/speechmapper/train.yaml.
set -euo pipefail

# Root of data, targets, caches and experiments; shared by all recipes.
export TOOLKIT_WORK="${TOOLKIT_WORK:-work}"
recipe=recipes/librispeech/speechmapper/train.yaml

. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
cd "$REPO"
exec python -m toolkit run "$recipe" "$@"
