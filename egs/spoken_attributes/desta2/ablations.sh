#!/usr/bin/env bash
# The ablations of recipes/spoken_attributes/desta2 at one budget, and one table of all of them.
#   ./ablations.sh                                       all of them, 300 steps of the main phase each
#   ./ablations.sh phases.train.optimizer_steps=600      at another budget, for all
#   ./ablations.sh --only base,last_layer,no_transcript --seeds 1,2
#   ./ablations.sh --list                                names and what each changes
# The budget is in steps, 2,000 of them in the warm start of those that have one, so that a slower
# setting gets no less training. Any other word goes to every run. What an ablation does not touch
# is taken over from runs that finished it with the same settings.
set -euo pipefail

recipe=recipes/spoken_attributes/desta2/train.yaml table=desta2_ablations
budget=(phases.pretrain.optimizer_steps=2000 phases.pretrain.max_seconds=null phases.train.optimizer_steps=300 phases.train.max_seconds=null)
. "$(dirname "${BASH_SOURCE[0]}")/../../common/ablations.sh"
