#!/usr/bin/env bash
# Train a small LLaMA and its tokenizer on text about scenes: scripts/train_lm.sh RECIPE [key=value ...] [--resume]
exec "$(dirname "$0")/launch.sh" train-lm "${1:?usage: scripts/train_lm.sh RECIPE [key=value ...] [--resume]}" "${@:2}"
