#!/usr/bin/env bash
# Start a command of mllm under the deepspeed launcher, one process per GPU, or two on the CPU.
#
#   scripts/launch.sh COMMAND RECIPE [key=value ...] [--resume]
#   scripts/launch.sh eval BENCHMARK [--model DIR ...]
#   PROCESSES=8 scripts/launch.sh bootstrap scripts/recipes/tiny/bootstrap.yaml
#
# PROCESSES: default: the number of GPUs, 2 without any.  MASTER_PORT: default: a random one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x "$root/.venv/bin/python" ] || PATH="$root/.venv/bin:$PATH"
if [ -z "${PROCESSES:-}" ]; then
    PROCESSES=$(command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -c GPU || true)
    [ "${PROCESSES:-0}" -gt 0 ] || PROCESSES=2
fi
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > PROCESSES ? cores / PROCESSES : 1))}
# glibc returns every large buffer to the system and asks for it again, page by page: on the CPU half of a step's time.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-4000000000} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4000000000}
exec python -m deepspeed.launcher.runner --num_gpus "$PROCESSES" --no_local_rank \
    --master_port "${MASTER_PORT:-$((20000 + RANDOM % 20000))}" --module mllm "$@"
