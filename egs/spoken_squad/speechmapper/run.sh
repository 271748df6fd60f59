#!/usr/bin/env bash
# SpeechMapper's second stage for question answering, on Spoken-SQuAD; run librispeech/speechmapper up to stage 6 first.
#   ./run.sh spoken_squad=FOLDER squad=FOLDER librispeech=FOLDER    everything
#   ./run.sh pretrained=FOLDER                    another pretrained phase than that of seed 1
#   ./run.sh --tag agnostic sigma=0.9 'phases.train.data={asr: 1.0, questions: null}' 'phases.train.validation=[asr_dev]' \
#       phases.train.select=asr_dev/loss          task-agnostic: transcription alone
#   ./run.sh --seeds 1,2,3                        several seeds
#   ./run.sh --help                               all options
# The model and the data are described in recipes/spoken_squad/speechmapper/train.yaml.
set -euo pipefail

# Root of data, targets, caches and experiments; shared by all recipes.
export TOOLKIT_WORK="${TOOLKIT_WORK:-work}"
recipe=recipes/spoken_squad/speechmapper/train.yaml

. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
cd "$REPO"
exec python -m toolkit run "$recipe" "$@"
