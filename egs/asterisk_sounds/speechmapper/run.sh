#!/usr/bin/env bash
# SpeechMapper on recorded telephone prompts: pretraining without the LLM, then a short one with it.
#   ./run.sh                            pretraining (the paper's stage 1, stage 6 here), then ASR
#                                       through the LLM (the paper's stage 2, stage 7 here)
#   ./run.sh --tag task sigma=0.0 'phases.train.data={+tasks: 0.5, asr: 0.5}'    task-specific
#   ./run.sh --stage 7 --stop_stage 9   some stages, by number or name
#   ./run.sh --seeds 1,2,3              several seeds
#   ./run.sh --dry-run                  what would run, and why
#   ./run.sh --help                     all options
# The model and the data are described in recipes/asterisk_sounds/speechmapper/train.yaml.
set -euo pipefail

# Root of data, targets, caches and experiments; shared by all recipes.
export TOOLKIT_WORK="${TOOLKIT_WORK:-work}"
recipe=recipes/asterisk_sounds/speechmapper/train.yaml

. "$(dirname "${BASH_SOURCE[0]}")/path.sh"
cd "$REPO"
exec python -m toolkit run "$recipe" "$@"
