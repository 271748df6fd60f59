#!/usr/bin/env bash
# Ablations of the recipe's README at an equal budget of training steps, then all runs in one table.
#   ./ablations.sh                      the full setting and four ablations, 300 steps each
#   ./ablations.sh 600 --seeds 1,2      another budget; what follows it goes to every run
#   ABLATIONS="no_attributes lora" ./ablations.sh     other ones of the README
#   ./ablations.sh --list 600           the commands, without running them
# Data, annotations, answers of one teacher and features are shared; finished runs are skipped. Which
# overrides a name stands for is said in recipes/spoken_attributes/desta2/README.md and nowhere else.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
recipe="$here/../../../recipes/spoken_attributes/desta2"
export TOOLKIT_WORK="${TOOLKIT_WORK:-work}"

list=""
if [ "${1:-}" = --list ]; then
    list=yes
    shift
fi
steps="${1:-300}"
case "$steps" in
    *[!0-9]* | "" | 0*) echo "error: $steps is no number of steps; usage: ablations.sh [--list] [STEPS] [OPTIONS]" >&2; exit 2 ;;
esac
options=("${@:2}")

# The README's commands, continued lines joined.
commands="$(sed -n '/^## Ablations/,/^## Reading/p' "$recipe/README.md" | sed -e ':a' -e '/\\$/{N;ba' -e '}' -e 's/ *\\\n */ /g')"
experiments="$TOOLKIT_WORK/exp/spoken_attributes"
for option in ${options[@]+"${options[@]}"}; do
    if [ "$option" = --quick ]; then experiments="$TOOLKIT_WORK/smoke/exp/spoken_attributes"; fi
done

folders=()
ablate() {
    local tag="ablation_$1"
    shift
    # Steps and not seconds: a slower setting gets no less training.
    local words=("$here/run.sh" --tag "$tag" "$@" "phases.train.optimizer_steps=$steps"
        phases.train.max_seconds=null ${options[@]+"${options[@]}"})
    folders+=("$experiments/desta2_$tag")
    if [ -n "$list" ]; then
        printf '%q ' "${words[@]}"
        echo
    else
        "${words[@]}"
    fi
}

command_of() { grep -E "^egs/[^ ]+ --tag $1 " <<<"$commands"; }

names="${ABLATIONS:-last_layer no_transcript fewer_queries other_teacher}"
for name in $names; do
    # All of them before the first run, which takes long.
    if ! command_of "$name" >/dev/null; then
        echo "error: no ablation $name in $recipe/README.md; there are:" \
            "$(sed -nE 's/^egs.* --tag ([a-z_]+) .*/\1/p' <<<"$commands" | tr '\n' ' ')" >&2
        exit 2
    fi
done
ablate none
for name in $names; do
    eval "words=($(command_of "$name"))"    # quoted for a shell, as a reader would paste it
    ablate "$name" "${words[@]:3}"
done

report=("${folders[@]}" --html "$experiments/desta2_ablations.html")
if [ -n "$list" ]; then
    printf '%q ' python -m toolkit report "${report[@]}"
    echo
    exit
fi
. "$here/path.sh"
cd "$REPO"
python -m toolkit report "${report[@]}" | tee "$experiments/desta2_ablations.md"
