#!/usr/bin/env bash
# Train a SparseFormer for a task: scripts/train_task.sh RECIPE [key=value ...] [--resume]
exec "$(dirname "$0")/launch.sh" train-task "${1:?usage: scripts/train_task.sh RECIPE [key=value ...] [--resume]}" "${@:2}"
