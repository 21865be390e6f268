#!/usr/bin/env bash
# VQAv2, test-dev: answers and the upload for its server:
#   scripts/eval/vqav2.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/vqav2
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval vqav2 --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/llava_vqav2_mscoco_test-dev2015.jsonl" --images "$data/test2015" \
    --upload-questions "$data/llava_vqav2_mscoco_test2015.jsonl" \
    "${@:3}"
