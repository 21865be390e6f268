#!/usr/bin/env bash
# Stage 1: train the projector between a frozen encoder and a frozen language model.
#
#   scripts/projector.sh RECIPE [key=value ...] [--resume]
#   PROCESSES=8 scripts/projector.sh scripts/recipes/tiny/projector.yaml output=runs/mine/projector
#
# PROCESSES: one per GPU; on a machine without one, processes on the CPU. Default 2.
set -euo pipefail
recipe=${1:?usage: scripts/projector.sh RECIPE [key=value ...] [--resume]}
shift
exec deepspeed --num_gpus "${PROCESSES:-2}" --no_local_rank --module mllm train "$recipe" stage=projector \
    trainer.deepspeed="${DEEPSPEED:-$(dirname "$0")/deepspeed/zero2.json}" "$@"
