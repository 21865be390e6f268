#!/usr/bin/env bash
# Stage 1, the projector between a frozen encoder and a frozen language model:
#   scripts/projector.sh RECIPE [key=value ...] [--resume]
# DEEPSPEED: the ZeRO configuration; default ZeRO-2.
scripts=$(dirname "$0")
exec "$scripts/launch.sh" finetune "${1:?usage: scripts/projector.sh RECIPE [key=value ...] [--resume]}" stage=projector \
    trainer.deepspeed="${DEEPSPEED:-$scripts/deepspeed/zero2.json}" "${@:2}"
