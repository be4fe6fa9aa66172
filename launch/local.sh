#!/usr/bin/env bash
# Sets up what is missing and runs AligNet on this machine; see --help.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=setup_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"

case ${1:-} in
  -h | --help)
    cat <<'HELP'
Usage: bash launch/local.sh [ARGUMENTS of python -m alignet_jax.main]

Makes the Python environment if it is missing or out of date, then runs. With
no arguments: the quickstart, a few minutes on two CPU cores without any
download of data, into runs/quickstart. Stop it whenever you like; the same
command goes on where it was.

Examples:
  bash launch/local.sh
  bash launch/local.sh --config=configs/vit_b16.py:runlocal --workdir=runs/vit
  bash launch/local.sh --helpfull    # the flags of alignet_jax.main

HELP
    environment_help
    exit
    ;;
esac

stop_on_signals
setup_environment run

if [ "$ACCELERATOR" = cpu ]; then
  # Spares JAX the search for accelerators and its warning about them.
  export JAX_PLATFORMS="${JAX_PLATFORMS-cpu}"
fi
if [ $# -eq 0 ]; then
  cd -- "$REPO"
  set -- --config=configs/quickstart.py --workdir=runs/quickstart
  say "running the quickstart in $REPO"
fi
set -- "$VENV_PYTHON" -m alignet_jax.main "$@"
if [ "${ALIGNET_DRY_RUN:-0}" = 1 ]; then
  run "$@"
else
  exec "$@"
fi
