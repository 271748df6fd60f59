# Sourced by run.sh: the environment of this recipe.
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/../../common/env.sh"
