#!/usr/bin/env bash
# Sets up what is missing, then lints and tests; see --help.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=setup_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"

case ${1:-} in
  -h | --help)
    cat <<'HELP'
Usage: bash launch/test.sh [ARGUMENTS of pytest]

Makes the Python environment if it is missing or out of date, then runs ruff,
shellcheck where there is one, and the tests. Tests of human data run where
../shared/data exists, and say so where they are skipped.

Examples:
  bash launch/test.sh
  bash launch/test.sh tests/teacher -k recovery
  bash launch/test.sh -n 0 --pdb     # in one process, with the debugger
  bash launch/test.sh -m slow        # the tests left out by default

HELP
    environment_help
    exit
    ;;
esac

stop_on_signals
setup_environment test

cd -- "$REPO"
say "ruff"
run "$VENV_PYTHON" -m ruff check
run "$VENV_PYTHON" -m ruff format --check
if command -v shellcheck >/dev/null 2>&1; then
  say "shellcheck"
  run shellcheck -x launch/*.sh .ci/run
else
  say "shellcheck: not installed, left out"
fi

# Two processes, a file in one of them, each with one thread for the linear
# algebra of numpy and scikit-learn: with more, they wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
say "pytest"
set -- "$VENV_PYTHON" -m pytest -n 2 --dist loadfile "$@"
if [ "${ALIGNET_DRY_RUN:-0}" = 1 ]; then
  run "$@"
else
  exec "$@"
fi
