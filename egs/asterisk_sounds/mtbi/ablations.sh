#!/usr/bin/env bash
# The ablations of recipes/asterisk_sounds/mtbi at one budget, and one table of all of them.
#   ./ablations.sh --seeds 1,2,3                                   all of them, three seeds
#   ./ablations.sh --seeds 1,2,3 phases.train.max_seconds=120      at another budget, for all
#   ./ablations.sh --only base,kl,blsp 'decode.inputs=[speech, text, blank]'
#   ./ablations.sh --list                                          names and what each changes
# Any other word goes to every run. What an ablation does not touch, the warm start included, is
# taken over from runs that finished it with the same settings. Started again, it goes on.
set -euo pipefail

recipe=recipes/asterisk_sounds/mtbi/train.yaml budget=()
. "$(dirname "${BASH_SOURCE[0]}")/../../common/ablations.sh"
