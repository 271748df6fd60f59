#!/usr/bin/env bash
# Losses of SpeechMapper's pretraining side by side: the paper's own, and one thing added to it.
#   ./ablations.sh --seeds 1,2,3                                   all of them, three seeds
#   ./ablations.sh --seeds 1,2,3 phases.pretrain.max_seconds=600   at another budget, for all
#   ./ablations.sh --only paper,contrast phases.train=null         without the second phase
#   ./ablations.sh --list                                          names and what each changes
# The budget is in seconds: a loss that costs more gets fewer steps. Any other word goes to every run.
# What an ablation does not touch is taken over from runs that finished it with the same settings.
set -euo pipefail

recipe=recipes/asterisk_sounds/speechmapper/train.yaml table=speechmapper_ablations
budget=(phases.pretrain.max_seconds=300 phases.pretrain.validate_every=200 phases.train.max_seconds=120)
. "$(dirname "${BASH_SOURCE[0]}")/../../common/ablations.sh"
