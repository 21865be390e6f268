#!/usr/bin/env bash
# POPE: random, popular and adversarial:
#   scripts/eval/pope.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/pope
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval pope --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/llava_pope_test.jsonl" --images "$data/val2014" --annotations "$data/coco" \
    "${@:3}"
