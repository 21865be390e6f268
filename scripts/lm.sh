#!/usr/bin/env bash
# Train a small LLaMA and its tokenizer on text about scenes: scripts/lm.sh RECIPE [key=value ...] [--resume]
exec "$(dirname "$0")/launch.sh" lm "${1:?usage: scripts/lm.sh RECIPE [key=value ...] [--resume]}" "${@:2}"
