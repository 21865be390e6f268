#!/usr/bin/env bash
# Bootstrap a SparseFormer from a CLIP: scripts/bootstrap.sh RECIPE [key=value ...] [--resume]
# DEEPSPEED: the ZeRO configuration; default ZeRO-2. (ZeRO-3 splits weights that every student is small enough to hold.)
scripts=$(dirname "$0")
exec "$scripts/launch.sh" bootstrap "${1:?usage: scripts/bootstrap.sh RECIPE [key=value ...] [--resume]}" \
    trainer.deepspeed="${DEEPSPEED:-$scripts/deepspeed/zero2.json}" "${@:2}"
