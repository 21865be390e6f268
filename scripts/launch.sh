#!/usr/bin/env bash
# Start a command of mllm under the deepspeed launcher, one process per GPU, or two on the CPU.
#
#   scripts/launch.sh COMMAND RECIPE [key=value ...] [--resume]
#   scripts/launch.sh eval BENCHMARK [--model DIR ...]
#   PROCESSES=8 scripts/launch.sh bootstrap scripts/recipes/tiny/bootstrap.yaml
#   HOSTFILE=hosts scripts/launch.sh finetune RECIPE
#
# PROCESSES: default: the number of GPUs, 2 without any.  MASTER_PORT: default: a random one.
#
# HOSTFILE: several machines, a line NAME slots=PROCESSES each; the project, its Python and all data are at the same
# path on each. One call starts them all through pdsh and ssh, which must need no password. Or, without ssh, a call on
# each machine with NODE_RANK=0, 1, ... (its line in the file), MASTER_ADDR (of the first) and the same MASTER_PORT.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x "$root/.venv/bin/python" ] || PATH="$root/.venv/bin:$PATH"
for argument; do
    [ "$argument" != --help ] || exec python -m mllm "$1" --help # which takes no launcher
done
arguments=("$@")
if [ -n "${HOSTFILE:-}" ]; then
    line='^[^#[:space:]]+[[:space:]]+slots=([0-9]+).*'
    if ! grep -Eq "$line" "$HOSTFILE"; then # the runner would go on with this machine alone
        echo "error: HOSTFILE=$HOSTFILE: no such file, or no line NAME slots=PROCESSES in it" >&2
        exit 2
    fi
    PROCESSES=$(sed -nE "s/$line/\1/p" "$HOSTFILE" | head -n 1)
    where=(--hostfile "$HOSTFILE")
    if [ -n "${NODE_RANK:-}" ]; then
        : "${MASTER_ADDR:?is the address of the first machine}" "${MASTER_PORT:?is a port that is free there}"
        # Without --master_addr the runner would ask for it through ssh, --no_ssh or not.
        where+=(--no_ssh --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
    else
        where+=(--force_multi --master_addr "${MASTER_ADDR:-}") # multi: also where the file names one machine
        safe='^[A-Za-z0-9_@+=:,./-]+$'
        if ! [[ $PWD =~ $safe ]]; then # the runner hands it to the shells as it is
            echo "error: HOSTFILE: the shells of other machines would misread $PWD; start in a folder without blanks" >&2
            exit 2
        fi
        # A shell on each machine reads the arguments again, and pdsh takes %n and the like out of them. The runner puts
        # "..." around those with a blank, with a backslash before each quote inside, and leaves all others as they are.
        for index in "${!arguments[@]}"; do
            argument=${arguments[index]}
            if [[ $argument == *" "* ]]; then
                arguments[index]=$(sed 's/[\\$`]/\\&/g; s/%/%%/g' <<<"$argument.")
                arguments[index]=${arguments[index]%.}
            elif ! [[ $argument =~ $safe ]]; then
                argument=\'${argument//\'/\'\\\'\'}\'
                arguments[index]=${argument//%/%%}
            fi
        done
    fi
else
    if [ -z "${PROCESSES:-}" ]; then
        PROCESSES=$(command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -c GPU || true)
        [ "${PROCESSES:-0}" -gt 0 ] || PROCESSES=2
    fi
    where=(--num_gpus "$PROCESSES")
fi
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > PROCESSES ? cores / PROCESSES : 1))}
# glibc returns every large buffer to the system and gets it again, page by page: on a CPU up to half of a step's time.
# Not the largest (64 MiB and more): kept in pieces of other lengths they took a language model's run beyond 14 GiB.
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:--1} MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-67108864}
# --quiet: the launcher writes what it does to stdout, which belongs to results.
command=(python -m deepspeed.launcher.runner "${where[@]}" --no_local_rank --quiet
    --master_port "${MASTER_PORT:-$((20000 + RANDOM % 20000))}" --module mllm "${arguments[@]}")
[ -z "${HOSTFILE:-}" ] || [ -n "${NODE_RANK:-}" ] || exec "${command[@]}" # the runner passes SIGTERM on through pdsh
# Here it would die of it and leave its processes alone; so they get it from this script: runner - launcher - processes.
(trap '' TERM && exec "${command[@]}") &
runner=$!
trap 'pkill -TERM -P "$(pgrep -P "$runner" -d ,)" || true' TERM
code=0
while kill -0 "$runner" 2>/dev/null; do
    code=0
    wait "$runner" || code=$?
done
exit "$code"
