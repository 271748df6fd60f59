# Sourced by a recipe's ablations.sh, which sets `recipe` and `budget` (overrides that all runs have):
# runs what recipes/<corpus>/<method>/ablations.sh lists, one change each, then one table of all.
# shellcheck shell=bash
export TOOLKIT_WORK="${TOOLKIT_WORK:-work}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
method="$(basename "$(dirname "$recipe")")"
corpus="$(basename "$(dirname "$(dirname "$recipe")")")"
only="" prefix=ablation_ list="" plan="" smoke="" common=("${budget[@]}") failed=() folders=()

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
        --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --quick) smoke=/smoke; common+=("$1"); shift ;;
        --dry-run) plan=1; common+=("$1"); shift ;;
        *) common+=("$1"); shift ;;
    esac
done
experiments="$TOOLKIT_WORK$smoke/exp/$corpus"

# shellcheck disable=SC1090
declared() { . "$root/${recipe%/*}/ablations.sh"; }

known=""
ablation() { known="$known $1"; }
declared
for name in ${only//,/ }; do
    [[ " $known " == *" $name "* ]] || { echo "error: --only $name: there are$known" >&2; exit 2; }
done

if [ -z "$list" ]; then
    . "$root/egs/common/env.sh"
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
    folders+=("$experiments/${method}_$prefix$name")
}

declared
[ -z "$list" ] || exit 0
if [ -z "$plan" ]; then
    scored=()
    for folder in "${folders[@]}"; do
        compgen -G "$folder/seed*/scores.json" >/dev/null && scored+=("$folder")
    done
    if [ ${#scored[@]} -gt 0 ]; then
        python -m toolkit report "${scored[@]}" --html "$experiments/${table:-ablations}.html" |
            tee "$experiments/${table:-ablations}.md"
    fi
fi
[ ${#failed[@]} -eq 0 ] || { echo "error: not finished: ${failed[*]}" >&2; exit 1; }
