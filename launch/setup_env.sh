# shellcheck shell=bash
# Makes the Python environment of this repository; sourced by local.sh and
# test.sh. It only defines functions: `setup_environment run|test` does the work
# and sets VENV_PYTHON and ACCELERATOR. Bash 3.2 (macOS) is enough.
#
# Nothing is downloaded or changed when the environment is up to date, which a
# stamp file inside it says. The stamp is written last and removed first, so an
# interrupted installation is repeated.

REPO=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# The first is the version that launch/constraints.txt was tested with.
SUPPORTED_PYTHONS="3.11 3.12 3.13"

environment_help() {
  cat <<'HELP'
Environment variables, all optional:
  ALIGNET_ACCELERATOR  cpu, gpu or tpu: which build of JAX to install.
                       Default: what this machine has.
  ALIGNET_VENV         Folder of the Python environment. Default: .venv in the
                       repository.
  ALIGNET_PYTHON       Python to make it with, 3.11 to 3.13. Default: the first
                       of python3.11, python3.12, python3.13, python3, python.
  ALIGNET_USE_UV=1     Install with uv instead of pip. (uv does not read pip's
                       configuration.)
  ALIGNET_DRY_RUN=1    Print the commands instead of running them.
HELP
}

say() { printf 'alignet: %s\n' "$*" >&2; }

die() {
  printf 'alignet: error: %s\n' "$*" >&2
  exit 1
}

# Runs a command, or prints it if ALIGNET_DRY_RUN=1.
run() {
  if [ "${ALIGNET_DRY_RUN:-0}" = 1 ]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

stop_on_signals() {
  trap 'echo >&2; say "stopped; the same command goes on from here"; exit 130' INT
  trap 'say "stopped; the same command goes on from here"; exit 143' TERM
}

# Prints cpu, gpu or tpu. $1: root of the file system, other than "" in tests.
detect_accelerator() {
  local root=$1 node device has_node=0
  if command -v nvidia-smi >/dev/null 2>&1 &&
    nvidia-smi -L 2>/dev/null | grep '^GPU ' >/dev/null; then
    echo gpu
    return
  fi
  for node in "$root"/dev/accel[0-9]* "$root"/dev/vfio/[0-9]*; do
    if [ -e "$node" ]; then has_node=1; fi
  done
  # Other machines have such device nodes too, so a sign of Google is needed.
  if [ "$has_node" = 1 ]; then
    if [ -n "${TPU_NAME:-}${TPU_ACCELERATOR_TYPE:-}${TPU_WORKER_ID:-}" ]; then
      echo tpu
      return
    fi
    for device in "$root"/sys/bus/pci/devices/*; do
      # Google's PCI vendor id; its storage (01) and network (02) devices are
      # in every machine of Google Cloud.
      if [ "$(cat "$device/vendor" 2>/dev/null)" = 0x1ae0 ]; then
        case $(cat "$device/class" 2>/dev/null) in
          0x01* | 0x02*) ;;
          *)
            echo tpu
            return
            ;;
        esac
      fi
    done
  fi
  echo cpu
}

# Sets ACCELERATOR.
choose_accelerator() {
  case ${ALIGNET_ACCELERATOR:-} in
    cpu | gpu | tpu)
      ACCELERATOR=$ALIGNET_ACCELERATOR
      ;;
    "")
      ACCELERATOR=$(detect_accelerator "")
      say "accelerator: $ACCELERATOR (found; ALIGNET_ACCELERATOR overrides)"
      ;;
    *)
      die "ALIGNET_ACCELERATOR is '$ALIGNET_ACCELERATOR';" \
        "allowed are cpu, gpu and tpu."
      ;;
  esac
}

# Prints the version of Python $1, or fails if it does not run.
version_of() {
  "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

is_supported() {
  case " $SUPPORTED_PYTHONS " in
    *" ${1%.*} "*) return 0 ;;
    *) return 1 ;;
  esac
}

# Sets PYTHON and PYTHON_VERSION to the first Python that can do the work.
find_python() {
  local candidate version found=""
  if [ -n "${ALIGNET_PYTHON:-}" ]; then
    set -- "$ALIGNET_PYTHON"
  else
    set -- python3.11 python3.12 python3.13 python3 python
  fi
  for candidate in "$@"; do
    if ! command -v "$candidate" >/dev/null 2>&1; then
      [ -z "${ALIGNET_PYTHON:-}" ] || found="
  $candidate: no such program (ALIGNET_PYTHON)"
      continue
    fi
    # A version manager's stand-in may exist without the Python behind it.
    if ! version=$(version_of "$candidate") || [ -z "$version" ]; then
      found="$found
  $candidate: does not run"
    elif ! is_supported "$version"; then
      found="$found
  $candidate: version $version"
    elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      found="$found
  $candidate: version $version without the module venv (on Debian and Ubuntu:
    apt-get install python${version%.*}-venv)"
    else
      PYTHON=$candidate
      PYTHON_VERSION=$version
      return
    fi
  done
  die "needs Python 3.11, 3.12 or 3.13 with the module venv. Found:\
${found:-
  none}
To install it: apt-get install python3.11 python3.11-venv (Debian, Ubuntu),
brew install python@3.11 (macOS), or https://www.python.org/downloads/.
A Python elsewhere can be named by ALIGNET_PYTHON=/path/to/python."
}

# The version of the environment's own Python; fails if there is none yet.
# The first check keeps a half-made environment from reaching the system's
# packages through its link to the system's Python.
venv_version() {
  [ -x "$VENV_PYTHON" ] &&
    "$VENV_PYTHON" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' \
      2>/dev/null &&
    version_of "$VENV_PYTHON"
}

# Makes the environment if it is missing; sets PYTHON_VERSION.
make_venv() {
  if PYTHON_VERSION=$(venv_version); then
    is_supported "$PYTHON_VERSION" ||
      die "$VENV holds Python $PYTHON_VERSION, and 3.11 to 3.13 are supported." \
        "Delete that folder, or name another one by ALIGNET_VENV."
    return
  fi
  find_python
  say "making $VENV with $PYTHON ($PYTHON_VERSION)"
  if [ -e "$VENV/pyvenv.cfg" ]; then
    # Its Python is gone, or it was interrupted in the making.
    run "$PYTHON" -m venv --clear "$VENV" || die "$VENV could not be made."
  elif [ -n "$(ls -A "$VENV" 2>/dev/null)" ]; then
    die "$VENV is not empty and not a Python environment." \
      "Name another folder by ALIGNET_VENV."
  else
    run "$PYTHON" -m venv "$VENV" || die "$VENV could not be made."
  fi
}

# Prints what an installation for purpose $1 (run or test) depends on, hashed.
installation_key() {
  local python=$VENV_PYTHON
  [ -x "$python" ] || python=$PYTHON
  "$python" - "$1 $ACCELERATOR $PYTHON_VERSION $REPO" \
    "$REPO/setup.py" "$REPO/pyproject.toml" "$REPO/launch/constraints.txt" \
    "$REPO/alignet_jax/__init__.py" <<'PYTHON'
import hashlib, sys
key = hashlib.sha256(sys.argv[1].encode())
for path in sys.argv[2:]:
  with open(path, "rb") as f:
    key.update(hashlib.sha256(f.read()).digest())
print(key.hexdigest())
PYTHON
}

# Installs the package and extras $1, such as "gpu,test"; "" for none.
install_package() {
  local target=.${1:+[$1]} constraints="" progress=""
  case $PYTHON_VERSION in
    3.11.*) constraints="-c launch/constraints.txt" ;; # else: newest versions
  esac
  cd -- "$REPO" || exit
  if [ "${ALIGNET_USE_UV:-0}" = 1 ]; then
    command -v uv >/dev/null 2>&1 ||
      die "ALIGNET_USE_UV is 1, but there is no uv on the PATH." \
        "Install uv, or unset ALIGNET_USE_UV to use pip."
    # shellcheck disable=SC2086 # $constraints is two words or none
    run uv pip install --python "$VENV_PYTHON" $constraints -e "$target"
    return
  fi
  if [ "${ALIGNET_DRY_RUN:-0}" != 1 ] &&
    ! "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then
    "$VENV_PYTHON" -m ensurepip --upgrade --default-pip >/dev/null ||
      die "$VENV has no working pip. Delete that folder and try again."
  fi
  [ -t 1 ] || progress="--progress-bar off" # plain lines when piped
  # A user's `pip config set install.user true` would fail in an environment.
  # shellcheck disable=SC2086 # words or nothing, as above
  run env PIP_USER=0 "$VENV_PYTHON" -m pip install \
    --disable-pip-version-check $progress $constraints -e "$target"
}

# Warns where JAX does not see the accelerator that it was installed for. Not
# asked on a TPU: on one of several hosts the question waits for the others.
check_accelerator() {
  [ "$ACCELERATOR" = gpu ] && [ "${ALIGNET_DRY_RUN:-0}" != 1 ] || return 0
  "$VENV_PYTHON" -c 'import jax; assert jax.default_backend() == "gpu"' \
    >/dev/null 2>&1 ||
    say "warning: JAX does not see the GPU and will use the CPU. Its CUDA 13" \
      "build needs an NVIDIA driver of version 580 or later (nvidia-smi)."
}

# $1: "run" for what a run needs, "test" for that and what the tests need.
setup_environment() {
  local purpose=$1 extras="" stamp key
  choose_accelerator
  VENV=${ALIGNET_VENV:-$REPO/.venv}
  case $VENV in
    /*) ;;
    *) VENV=$PWD/$VENV ;;
  esac
  VENV_PYTHON=$VENV/bin/python
  make_venv
  stamp=$VENV/.alignet-installed
  key=$(installation_key "$purpose")
  if grep -qx "$key" "$stamp" 2>/dev/null; then
    return
  fi
  [ "$ACCELERATOR" = cpu ] || extras=$ACCELERATOR
  [ "$purpose" = run ] || extras=${extras:+$extras,}$purpose
  say "installing into $VENV (once; minutes, and 2.5 GB or more)"
  if [ "${ALIGNET_DRY_RUN:-0}" = 1 ]; then
    (install_package "$extras")
    return
  fi
  rm -f "$stamp"
  (install_package "$extras") >&2 ||
    die "the installation failed; the lines above say why. The same command" \
      "tries again."
  check_accelerator
  # What suffices for the tests suffices for a run.
  { echo "$key" && installation_key run; } >"$stamp.partial"
  mv -f -- "$stamp.partial" "$stamp"
  say "installed"
}
