#!/usr/bin/env bash
# Stage 2, the whole language model and the projector:
#   scripts/full.sh RECIPE [key=value ...] [--resume]
# DEEPSPEED: the ZeRO configuration; default ZeRO-3, which also splits the weights over the processes.
scripts=$(dirname "$0")
exec "$scripts/launch.sh" finetune "${1:?usage: scripts/full.sh RECIPE [key=value ...] [--resume]}" stage=full \
    trainer.deepspeed="${DEEPSPEED:-$scripts/deepspeed/zero3.json}" "${@:2}"
