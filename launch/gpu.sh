#!/usr/bin/env bash
# Sets up what is missing and runs AligNet on GPUs of this machine; see --help.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=setup_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"

usage() {
  cat <<'HELP'
Usage: bash launch/gpu.sh [FLAGS] [--] [ARGUMENTS of python -m alignet_jax.main]

Makes the Python environment with CUDA if it is missing or out of date, then
runs on one or several GPUs. One process uses all of them; more are for tests
of what several machines do, and where one process cannot feed all.

Flags:
  --gpus=0,1      Which GPUs, or all. Default: CUDA_VISIBLE_DEVICES, else all.
  --memory=0.9    Share of a GPU's memory that JAX takes at once.
  --processes=1   How many processes share the GPUs; divides their number. With
                  more than one, each writes logs/gpu-I.log, and all end when
                  one fails.
  --port=8476     At which they find each other.
  --logs=DIR      Folder of these logs. Default: logs.
DRY_RUN=1 prints the commands instead of running them.

Examples:
  bash launch/gpu.sh --config=configs/siglip_b16.py:runlocal
  bash launch/gpu.sh --gpus=2,3 --memory=0.5 --config=configs/quickstart.py

HELP
  environment_help
}

gpus=${CUDA_VISIBLE_DEVICES-all}
memory=0.9 processes=1 port=8476 logs=logs
rest=() # What is left for main.
while [ $# -gt 0 ]; do
  case $1 in
    --gpus | --memory | --processes | --port | --logs)
      [ $# -gt 1 ] || die "$1 has no value; write $1=VALUE."
      flag=$1=$2
      shift 2
      set -- "$flag" "$@"
      continue
      ;;
    -h | --help)
      usage
      exit
      ;;
    --gpus=*) gpus=${1#*=} ;;
    --memory=*) memory=${1#*=} ;;
    --processes=*) processes=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    --)
      shift
      rest+=("$@")
      break
      ;;
    *) rest+=("$1") ;;
  esac
  shift
done
set -- "${rest[@]+"${rest[@]}"}"

ALIGNET_DRY_RUN=${DRY_RUN:-${ALIGNET_DRY_RUN:-0}}
case $memory in
  0.*[!0-9]* | 0.) die "--memory is '$memory'; allowed are 0.01 to 1." ;;
  0.*[1-9]* | 1 | 1.0) ;;
  *) die "--memory is '$memory'; allowed are 0.01 to 1." ;;
esac
for value in "processes $processes" "port $port"; do
  case ${value#* } in
    "" | *[!0-9]* | 0*)
      die "--${value% *} is '${value#* }'; a whole number from 1 is needed."
      ;;
  esac
done

if [ ${#port} -gt 5 ] || [ "$port" -gt 65535 ]; then
  die "--port is '$port'; allowed are 1 to 65535."
fi
[ -n "$gpus" ] ||
  die "no GPU may be used: CUDA_VISIBLE_DEVICES, or --gpus, is empty. Name some" \
    "by --gpus=0,1, or use: bash launch/local.sh"

if ! listed=$(nvidia-smi -L 2>/dev/null) || [ -z "$listed" ]; then
  die "no NVIDIA GPU was found (\`nvidia-smi -L\` lists none, or there is no" \
    "driver). Without one, use: bash launch/local.sh"
fi
available=$(printf '%s\n' "$listed" | grep -c '^GPU ' || true)
if [ "$gpus" = all ]; then
  gpus=$(seq -s, 0 $((available - 1)))
  gpus=${gpus%,} # macOS ends with one
fi
IFS=, read -r -a chosen <<<"$gpus"
met=,
for gpu in "${chosen[@]}"; do
  case $gpu in
    GPU-*) # What CUDA takes as well is the beginning of a unique name.
      name=$gpu
      gpu=$(printf '%s\n' "$listed" | grep -F "(UUID: $name" |
        sed -n 's/^GPU \([0-9]*\):.*/\1/p') || true
      case $gpu in
        "" | *[!0-9]*)
          die "--gpus names $name; \`nvidia-smi -L\` must list one GPU of" \
            "that name."
          ;;
      esac
      ;;
  esac
  case $gpu in
    0?*) die "--gpus is '$gpus'; write numbers without zeros before them." ;;
  esac
  case $met in
    *",$gpu,"*) die "--gpus names GPU $gpu twice." ;;
  esac
  met=$met$gpu,
  case $gpu in
    MIG-*) ;; # by their unique names
    "" | *[!0-9]*) die "--gpus is '$gpus'; write numbers, such as 0,1." ;;
    *)
      [ "$gpu" -lt "$available" ] ||
        die "--gpus names GPU $gpu; this machine has 0 to $((available - 1))."
      ;;
  esac
done
[ $((${#chosen[@]} % processes)) = 0 ] ||
  die "--processes is $processes; it must be a divisor of the number of GPUs," \
    "which is ${#chosen[@]}."

stop_on_signals
export ALIGNET_ACCELERATOR=gpu
setup_environment run

# Else JAX would go on, without a word, on the CPU if CUDA does not start.
settings=(JAX_PLATFORMS=cuda "XLA_PYTHON_CLIENT_MEM_FRACTION=$memory")
main=("$VENV_PYTHON" -m alignet_jax.main "$@")
say "GPUs $gpus, $processes process(es)"

if [ "$processes" = 1 ]; then
  set -- env "${settings[@]}" "CUDA_VISIBLE_DEVICES=$gpus" "${main[@]}"
  if [ "$ALIGNET_DRY_RUN" = 1 ]; then
    run "$@"
    exit
  fi
  exec "$@"
fi

share=$((${#chosen[@]} / processes))
pids=()
# Asks all that are left to save and end.
end_all() {
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
  done
}
trap 'end_all; wait; exit 143' TERM
trap 'end_all; wait; exit 130' INT
[ "$ALIGNET_DRY_RUN" = 1 ] || mkdir -p -- "$logs"
for ((i = 0; i < processes; i++)); do
  own=$(
    IFS=,
    printf '%s' "${chosen[*]:i*share:share}"
  )
  set -- env "${settings[@]}" "CUDA_VISIBLE_DEVICES=$own" "${main[@]}" \
    "--coordinator=localhost:$port" "--num_processes=$processes" \
    "--process_id=$i"
  if [ "$ALIGNET_DRY_RUN" = 1 ]; then
    run "$@"
    continue
  fi
  "$@" >"$logs/gpu-$i.log" 2>&1 &
  pids+=($!)
done
[ "$ALIGNET_DRY_RUN" != 1 ] || exit 0
say "logs: $logs/gpu-0.log to gpu-$((processes - 1)).log"

code=0
left=${#pids[@]}
while [ "$left" -gt 0 ]; do
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    wait "${pids[i]}" && ended=0 || ended=$?
    unset "pids[i]"
    left=$((left - 1))
    if [ "$ended" != 0 ] && [ "$code" = 0 ]; then
      code=$ended
      say "process $i ended with code $code; see $logs/gpu-$i.log"
      [ "$left" = 0 ] || end_all
    fi
  done
  [ "$left" = 0 ] || sleep 1
done
exit "$code"
