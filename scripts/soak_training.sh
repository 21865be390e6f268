#!/usr/bin/env bash
# Kill trainings at random moments, resume them, and compare the weights bit by bit with uninterrupted runs:
#   scripts/soak_training.sh [--kills 50] [--seed 0] [--kinds bootstrap,finetune,zero2,zero3,merge,save] [--out FILE.json]
# On a CPU, with models of a few thousand weights; exits with 1 if any run ended otherwise.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x "$root/.venv/bin/python" ] || PATH="$root/.venv/bin:$PATH"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_VISIBLE_DEVICES=
exec python "$root/scripts/soak_training.py" "$@"
