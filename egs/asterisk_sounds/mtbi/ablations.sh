#!/usr/bin/env bash
# The ablations of recipes/asterisk_sounds/mtbi at one budget, and one table of all of them.
#   ./ablations.sh --seeds 1,2,3                                   all of them, three seeds
#   ./ablations.sh --seeds 1,2,3 phases.train.max_seconds=120      at another budget, for all
#   ./ablations.sh --only base,kl,blsp 'decode.inputs=[speech, text, blank]'
#   ./ablations.sh --list                                          names and what each changes
# Any other word goes to every run. What an ablation does not touch, the warm start included, is
# taken over from runs that finished it with the same settings. Started again, it goes on.
set -euo pipefail

export TOOLKIT_WORK="${TOOLKIT_WORK:-work}"
recipe=recipes/asterisk_sounds/mtbi/train.yaml
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
only="" prefix=ablation_ list="" plan="" smoke="" common=() failed=() folders=()

while [ $# -gt 0 ]; do
    case "$1" in
        --only | --prefix | --work)
            [ $# -gt 1 ] || { echo "error: $1 needs a value" >&2; exit 2; }
            case "$1" in
                --only) only="$2" ;;
                --prefix) prefix="$2" ;;
                --work) TOOLKIT_WORK="$2" ;;
            esac
            shift 2 ;;
        --list) list=1; shift ;;
        --help | -h) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        --quick) smoke=/smoke; common+=("$1"); shift ;;
        --dry-run) plan=1; common+=("$1"); shift ;;
        *) common+=("$1"); shift ;;
    esac
done
experiments="$TOOLKIT_WORK$smoke/exp/asterisk_sounds"

# shellcheck source=recipes/asterisk_sounds/mtbi/ablations.sh
declared() { . "$root/${recipe%/*}/ablations.sh"; }

known=""
ablation() { known="$known $1"; }
declared
for name in ${only//,/ }; do
    [[ " $known " == *" $name "* ]] || { echo "error: --only $name: there are$known" >&2; exit 2; }
done

if [ -z "$list" ]; then
    . "$(dirname "${BASH_SOURCE[0]}")/path.sh"
    cd "$REPO"
fi

# ablation NAME OVERRIDE...: the recipe with one thing changed, behind what all runs have.
ablation() {
    local name="$1" code=0
    shift
    if [ -n "$list" ]; then
        printf '%s' "$name"
        [ $# -eq 0 ] || printf ' %q' "$@"
        printf '\n'
        return
    fi
    [ -z "$only" ] || [[ ",$only," == *",$name,"* ]] || return 0
    echo "== $name: ${*:-the recipe as it is}" >&2
    python -m toolkit run "$recipe" --tag "$prefix$name" --reuse "$experiments" "${common[@]}" "$@" || code=$?
    # 2 is a wrong command line; 85 and above: the run was told to stop. Nothing else is begun.
    { [ "$code" -ne 2 ] && [ "$code" -lt 85 ]; } || exit "$code"
    [ "$code" -eq 0 ] || failed+=("$name")
    folders+=("$experiments/mtbi_$prefix$name")
}

declared
[ -z "$list" ] || exit 0
if [ -z "$plan" ]; then
    scored=()
    for folder in "${folders[@]}"; do
        compgen -G "$folder/seed*/scores.json" >/dev/null && scored+=("$folder")
    done
    if [ ${#scored[@]} -gt 0 ]; then
        python -m toolkit report "${scored[@]}" --html "$experiments/ablations.html" |
            tee "$experiments/ablations.md"
    fi
fi
[ ${#failed[@]} -eq 0 ] || { echo "error: not finished: ${failed[*]}" >&2; exit 1; }
