#!/usr/bin/env bash
# Creates a TPU VM, installs and runs AligNet on all its workers; see --help.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=setup_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"

usage() {
  cat <<'HELP'
Usage: bash launch/tpu_vm.sh COMMAND [FLAGS] [-- ARGUMENTS]

Commands, in the order in which they are used:
  create   Makes the TPU VM and waits until it is there.
  install  Copies this working tree to all workers and installs it there. Again
           after every change of the code; only what changed is installed.
  run      Starts `python -m alignet_jax.main ARGUMENTS` on all workers, with
           --coordinator=auto before the arguments if they hold none: it joins
           the workers of a slice to one run, and one worker runs alone. It goes
           on when the connection is closed.
  logs     Follows the log of one worker (--worker; default 0). --worker=all
           prints the last lines of each.
  status   Says what state the VM is in, and whether each worker runs.
  stop     Asks the run to save and end. `run` with the same arguments goes on.
  resume   After a preemption: makes the VM again as it was created, installs,
           and runs the same command. If the VM is there, only what is missing.
  delete   Deletes the VM, and all on its disks. Asks first.

Flags; the first three may be environment variables PROJECT, ZONE and NAME:
  --project=ID   Google Cloud project.
  --zone=ZONE    Such as us-central2-b (v4) or us-east5-b (v6e).
  --name=NAME    Of the VM: small letters, digits and hyphens.
  --type=TYPE    create: v4-32, v5e-16, v5p-8, v6e-8 and so on.
  --spot         create: cheaper, may be taken away at any time.
  --preemptible  create: the older form of that, for 24 hours at most.
  --queued       create: waits in line as a queued resource, until there is one.
  --runtime=V    create: version of the software; default: that of the type.
  --setup=CMD    install, resume: runs CMD first on every worker, such as the
                 mounting of a disk. CMD should do no harm if it runs twice.
  --worker=N     logs: which worker, or all.
  --yes          delete: does not ask.
DRY_RUN=1 prints the commands, which can be pasted, instead of running them;
the archive that install copies is then in the folder for temporary files.

The workdir of a run must be a folder that all workers see and that outlives the
VM (a Filestore share, or a bucket mounted by gcsfuse); --setup can mount it.

Example:
  export PROJECT=my-project ZONE=us-east5-b NAME=alignet
  bash launch/tpu_vm.sh create --type=v6e-16 --spot --queued
  bash launch/tpu_vm.sh install --setup='sudo mount 10.0.0.2:/share /mnt'
  bash launch/tpu_vm.sh run -- --config=configs/siglip_b16.py --workdir=/mnt/run
  bash launch/tpu_vm.sh logs
  bash launch/tpu_vm.sh resume
  bash launch/tpu_vm.sh delete
HELP
}

# The folder of the repository on a worker, below its home.
REMOTE=alignet_jax

parse() {
  COMMAND=$1
  shift
  PROJECT=${PROJECT:-} ZONE=${ZONE:-} NAME=${NAME:-}
  TYPE="" SPOT=0 PREEMPTIBLE=0 QUEUED=0 RUNTIME="" SETUP="" WORKER=0 YES=0
  HAS_SETUP=0
  while [ $# -gt 0 ]; do
    case $1 in
      --project=*) PROJECT=${1#*=} ;;
      --zone=*) ZONE=${1#*=} ;;
      --name=*) NAME=${1#*=} ;;
      --type=*) TYPE=${1#*=} ;;
      --spot) SPOT=1 ;;
      --preemptible) PREEMPTIBLE=1 ;;
      --queued) QUEUED=1 ;;
      --runtime=*) RUNTIME=${1#*=} ;;
      --setup=*) SETUP=${1#*=} HAS_SETUP=1 ;;
      --worker=*) WORKER=${1#*=} ;;
      --yes) YES=1 ;;
      --)
        shift
        break
        ;;
      --config* | --workdir* | --stages*)
        die "$1 is an argument of the run; put -- before it."
        ;;
      *) die "There is no flag $1; flags are --name=VALUE, see --help." ;;
    esac
    shift
  done
  ARGUMENTS=("$@")
}

check_names() {
  local missing=""
  [ -n "$PROJECT" ] || missing="$missing PROJECT (--project=ID)"
  [ -n "$ZONE" ] || missing="$missing ZONE (--zone=ZONE)"
  [ -n "$NAME" ] || missing="$missing NAME (--name=NAME)"
  [ -z "$missing" ] || die "not set:$missing. Give the flag, or the variable."
  # Names are pasted into paths and commands.
  case $PROJECT$ZONE$NAME in
    *[!a-z0-9.:-]*)
      die "a name has letters that are not allowed: project '$PROJECT', zone" \
        "'$ZONE', name '$NAME'. Allowed are a-z, 0-9 and hyphens."
      ;;
  esac
  # Else one would be taken for a flag, or for a folder.
  local name
  for name in "$PROJECT" "$ZONE" "$NAME"; do
    case $name in
      [!a-z0-9]*) die "'$name' is no name; it begins with a letter or digit." ;;
    esac
  done
  case $WORKER in
    all) ;;
    "" | *[!0-9]*) die "--worker is '$WORKER'; allowed are numbers and all." ;;
  esac
  if [ "$ALIGNET_DRY_RUN" != 1 ]; then
    command -v gcloud >/dev/null 2>&1 ||
      die "there is no gcloud on the PATH; https://cloud.google.com/sdk/docs" \
        "says how to install it. DRY_RUN=1 shows the commands without it."
  fi
  # What resume needs to know; the disks of the VM may be gone by then.
  STATE=$REPO/runs/tpu_vm/$PROJECT.$ZONE.$NAME
}

# Remembers words under a key, quoted for the shell.
remember() {
  local key=$1
  shift
  [ "$ALIGNET_DRY_RUN" != 1 ] || return 0
  mkdir -p -- "$STATE"
  { [ $# -eq 0 ] || printf '%q ' "$@"; } >"$STATE/$key.partial"
  mv -f -- "$STATE/$key.partial" "$STATE/$key"
}

# Sets WORDS to what was remembered under a key; fails if there is nothing.
recall() {
  [ -f "$STATE/$1" ] || return 1
  eval "WORDS=($(cat -- "$STATE/$1"))"
}

# $1: group of commands of gcloud; $2: command; then its arguments.
tpu() {
  local group=$1 what=$2
  shift 2
  run gcloud compute tpus "$group" "$what" "$@" \
    "--project=$PROJECT" "--zone=$ZONE"
}

# Runs text $2 in the shell of worker $1, or of all.
on_worker() {
  tpu tpu-vm ssh "$NAME" --quiet "--worker=$1" "--command=$2"
}

# Sets ACCELERATOR_TYPE and RUNTIME as gcloud spells them.
choose_type() {
  local runtime number=${TYPE#*-}
  case $TYPE in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5e-* | v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    "") die "create needs --type, such as --type=v4-8 or --type=v6e-16." ;;
    *) die "--type is '$TYPE'; known are v4-N, v5e-N, v5p-N and v6e-N." ;;
  esac
  case $number in
    "" | *[!0-9]*) die "--type is '$TYPE'; a number belongs behind the hyphen." ;;
  esac
  ACCELERATOR_TYPE=$TYPE
  case $TYPE in v5e-*) ACCELERATOR_TYPE=v5litepod-$number ;; esac
  RUNTIME=${RUNTIME:-$runtime}
}

create() {
  choose_type
  local flags=("--accelerator-type=$ACCELERATOR_TYPE")
  [ "$SPOT$PREEMPTIBLE" != 11 ] || die "give --spot or --preemptible, not both."
  if [ "$QUEUED" = 1 ]; then
    [ "$PREEMPTIBLE" = 0 ] || die "with --queued, give --spot for --preemptible."
    flags+=("--node-id=$NAME" "--runtime-version=$RUNTIME")
  else
    flags+=("--version=$RUNTIME")
  fi
  [ "$SPOT" = 0 ] || flags+=(--spot)
  [ "$PREEMPTIBLE" = 0 ] || flags+=(--preemptible)
  remember create "$TYPE" "$SPOT" "$PREEMPTIBLE" "$QUEUED" "$RUNTIME"
  if [ "$QUEUED" = 1 ]; then
    tpu queued-resources create "$NAME" "${flags[@]}"
    wait_in_line
  else
    tpu tpu-vm create "$NAME" "${flags[@]}"
  fi
}

# Waits until the queued resource is there.
wait_in_line() {
  local state last=""
  if [ "$ALIGNET_DRY_RUN" = 1 ]; then
    tpu queued-resources describe "$NAME" "--format=value(state.state)"
    return
  fi
  while true; do
    state=$(tpu queued-resources describe "$NAME" "--format=value(state.state)")
    [ "$state" = "$last" ] || say "$NAME: ${state:-no state yet}"
    last=$state
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        die "the request for $NAME ended as $state. \`status\` says why;" \
          "\`resume\` asks again."
        ;;
    esac
    sleep "${POLL_SECONDS:-30}"
  done
}

# Prints the state of the VM, such as READY or PREEMPTED; nothing without one.
vm_state() {
  gcloud compute tpus tpu-vm describe "$NAME" "--project=$PROJECT" \
    "--zone=$ZONE" "--format=value(state)" 2>/dev/null || true
}

# Copies the files that git knows or does not ignore, with changes.
install_all() {
  local tarball
  [ "$HAS_SETUP" = 0 ] || remember setup "$SETUP"
  if [ "$ALIGNET_DRY_RUN" = 1 ]; then
    tarball=${TMPDIR:-/tmp}/alignet_jax.tar.gz
  else
    tarball=$(mktemp -d)/alignet_jax.tar.gz
    # shellcheck disable=SC2064 # the value of now
    trap "rm -rf -- '${tarball%/*}'" EXIT
  fi
  [ -z "$SETUP" ] || on_worker all "$SETUP"
  run bash -c "$(pack "$tarball")"
  tpu tpu-vm scp "$tarball" "$NAME:alignet_jax.tar.gz" --quiet --worker=all
  on_worker all "$(remote_install)"
}

# What packs the files into archive $1: text for the shell of this machine.
# shellcheck disable=SC2016 # that shell expands it
pack() {
  local listed
  if git -C "$REPO" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    # Of deleted files git still knows the names.
    listed='git ls-files -z --cached --others --exclude-standard | while IFS='
    listed+=' read -r -d "" file; do [ ! -e "$file" ] || printf "%s\0" "$file"'
    listed+='; done'
  else
    listed="find . -type f -not -path './.venv/*' -not -path './runs/*' -print0"
  fi
  printf 'set -euo pipefail; cd -- %q; %s | tar -czf %q --null -T -' \
    "$REPO" "$listed" "$1"
}

# What installs on a worker: text for its shell. Without a Python that will do,
# one is fetched, since the images of TPU VMs have 3.10.
remote_install() {
  cat <<REMOTE_SHELL
set -e
mkdir -p $REMOTE
rm -rf $REMOTE/alignet_jax $REMOTE/configs
tar -xzf alignet_jax.tar.gz -C $REMOTE
found=0
for python in python3.11 python3.12 python3.13; do
  if \$python -c "import ensurepip, venv" 2>/dev/null; then found=1; fi
done
if [ \$found = 0 ]; then
  sudo add-apt-repository -y ppa:deadsnakes/ppa
  sudo apt-get -o DPkg::Lock::Timeout=600 install -y python3.11 python3.11-venv
fi
cd $REMOTE
export ALIGNET_ACCELERATOR=tpu
bash -c "set -euo pipefail; . launch/setup_env.sh; setup_environment run"
REMOTE_SHELL
}

# Starts the run on all workers; text for their shells.
remote_run() {
  local quoted
  quoted=$(printf '%q ' "$@")
  cat <<REMOTE_SHELL
cd $REMOTE || exit
if [ -f run.pid ] && kill -0 "\$(cat run.pid)" 2>/dev/null; then
  echo "a run is under way here; stop it first" >&2
  exit 3
fi
mkdir -p logs
export ALIGNET_ACCELERATOR=tpu
setsid nohup bash launch/local.sh $quoted>>logs/run.log 2>&1 </dev/null &
echo \$! >run.pid
REMOTE_SHELL
}

run_all() {
  [ $# -gt 0 ] ||
    die "run needs the arguments of alignet_jax.main behind --, such as" \
      "-- --config=configs/siglip_b16.py --workdir=/mnt/run"
  remember run "$@"
  # Without it every worker would be a run of its own. It is the first, lest it
  # be taken for the value of a flag that lacks one.
  local word joins=0
  for word in "$@"; do
    case $word in
      -coordinator | -coordinator=* | --coordinator | --coordinator=*) joins=1 ;;
    esac
  done
  [ "$joins" = 1 ] || set -- --coordinator=auto "$@"
  on_worker all "$(remote_run "$@")"
  [ "$ALIGNET_DRY_RUN" = 1 ] ||
    say "started; \`bash launch/tpu_vm.sh logs\` follows it"
}

follow() {
  local log=$REMOTE/logs/run.log
  if [ "$WORKER" = all ]; then
    on_worker all "echo \"== \$(hostname)\"; tail -n 20 $log"
  else
    on_worker "$WORKER" "tail -n 100 -F $log"
  fi
}

show_status() {
  if [ "$QUEUED" = 1 ] || { recall create && [ "${WORDS[3]}" = 1 ]; }; then
    tpu queued-resources describe "$NAME" || true
  fi
  tpu tpu-vm describe "$NAME" "--format=value(state,health,acceleratorType)" ||
    die "there is no TPU VM $NAME in $ZONE."
  on_worker all "cd $REMOTE && echo \"\$(hostname): \$(kill -0 \$(cat run.pid)\
 2>/dev/null && echo running || echo not running): \$(tail -n 1 logs/run.log)\""
}

resume() {
  local state=""
  recall create ||
    die "nothing is known of $NAME here (in $STATE): \`create\` and \`run\`" \
      "must have been called from this folder."
  TYPE=${WORDS[0]} SPOT=${WORDS[1]} PREEMPTIBLE=${WORDS[2]} QUEUED=${WORDS[3]}
  RUNTIME=${WORDS[4]}
  if [ "$HAS_SETUP" = 0 ] && recall setup; then SETUP=${WORDS[0]:-}; fi
  recall run || die "nothing was run on $NAME yet; use \`run\`."
  local arguments=("${WORDS[@]}")
  if [ "$ALIGNET_DRY_RUN" != 1 ]; then
    state=$(vm_state)
    say "$NAME: ${state:-gone}"
  fi
  if [ "$state" != READY ]; then
    # Its remains, also of the request, keep the name from being used again.
    if [ "$QUEUED" = 1 ]; then
      tpu queued-resources delete "$NAME" --force --quiet || true
    elif [ -n "$state" ] || [ "$ALIGNET_DRY_RUN" = 1 ]; then
      tpu tpu-vm delete "$NAME" --quiet
    fi
    create
  fi
  install_all
  run_all "${arguments[@]}"
}

delete() {
  local answer=""
  if [ "$YES" = 0 ] && [ "$ALIGNET_DRY_RUN" != 1 ]; then
    [ -t 0 ] || die "delete asks first, and nobody can answer here; add --yes."
    printf 'Delete %s in %s, with all on its disks? [y/N] ' "$NAME" "$ZONE" >&2
    read -r answer
    case $answer in
      y | Y | yes) ;;
      *) die "not deleted." ;;
    esac
  fi
  if [ "$QUEUED" = 1 ] || { recall create && [ "${WORDS[3]}" = 1 ]; }; then
    tpu queued-resources delete "$NAME" --force --quiet
  else
    tpu tpu-vm delete "$NAME" --quiet
  fi
  if [ "$ALIGNET_DRY_RUN" != 1 ]; then
    rm -rf -- "$STATE"
  fi
}

case ${1:-} in
  "" | -h | --help)
    usage
    exit
    ;;
esac

ALIGNET_DRY_RUN=${DRY_RUN:-${ALIGNET_DRY_RUN:-0}}
parse "$@"
check_names
[ "$COMMAND" = run ] || [ ${#ARGUMENTS[@]} -eq 0 ] ||
  die "$COMMAND takes no arguments behind --; only run does."
case $COMMAND in
  create) create ;;
  install) install_all ;;
  run) run_all "${ARGUMENTS[@]+"${ARGUMENTS[@]}"}" ;;
  logs) follow ;;
  status) show_status ;;
  stop)
    on_worker all "kill -TERM \"\$(cat $REMOTE/run.pid)\""
    ;;
  resume) resume ;;
  delete) delete ;;
  *)
    die "There is no command $COMMAND; there are create, install, run, logs," \
      "status, stop, resume and delete."
    ;;
esac
