#!/usr/bin/env bash
# Train a small CLIP on generated scenes: scripts/teacher.sh RECIPE [key=value ...] [--resume]
exec "$(dirname "$0")/launch.sh" teacher "${1:?usage: scripts/teacher.sh RECIPE [key=value ...] [--resume]}" "${@:2}"
