#!/usr/bin/env bash
# Train a CLIP on captioned images: scripts/train_clip.sh RECIPE [key=value ...] [--resume]
exec "$(dirname "$0")/launch.sh" train-clip "${1:?usage: scripts/train_clip.sh RECIPE [key=value ...] [--resume]}" "${@:2}"
