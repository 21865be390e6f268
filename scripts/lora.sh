#!/usr/bin/env bash
# Stage 2, LoRA on the language model and the projector with it:
#   scripts/lora.sh RECIPE [key=value ...] [--resume]
# DEEPSPEED: the ZeRO configuration; default ZeRO-3, which also splits the weights over the processes.
scripts=$(dirname "$0")
exec "$scripts/launch.sh" finetune "${1:?usage: scripts/lora.sh RECIPE [key=value ...] [--resume]}" stage=lora \
    trainer.deepspeed="${DEEPSPEED:-$scripts/deepspeed/zero3.json}" "${@:2}"
