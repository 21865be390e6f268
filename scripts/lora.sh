#!/usr/bin/env bash
# Stage 2: tune the language model with LoRA, and the projector with it.
#
#   scripts/lora.sh RECIPE [key=value ...] [--resume]
#   PROCESSES=8 scripts/lora.sh scripts/recipes/tiny/lora.yaml model=runs/mine/projector output=runs/mine/lora
#
# PROCESSES: one per GPU; on a machine without one, processes on the CPU. Default 2.
# DEEPSPEED: the ZeRO configuration; default ZeRO-3, which also splits the weights over the processes.
set -euo pipefail
recipe=${1:?usage: scripts/lora.sh RECIPE [key=value ...] [--resume]}
shift
exec deepspeed --num_gpus "${PROCESSES:-2}" --no_local_rank --module mllm train "$recipe" stage=lora \
    trainer.deepspeed="${DEEPSPEED:-$(dirname "$0")/deepspeed/zero3.json}" "$@"
