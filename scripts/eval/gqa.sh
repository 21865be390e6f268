#!/usr/bin/env bash
# GQA, balanced test-dev:
#   scripts/eval/gqa.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/gqa
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval gqa --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/llava_gqa_testdev_balanced.jsonl" --images "$data/data/images" \
    --annotations "$data/data/testdev_balanced_questions.json" \
    "${@:3}"
