#!/usr/bin/env bash
# ScienceQA-IMG: the questions of the test split that have an image:
#   scripts/eval/scienceqa.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/scienceqa
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval scienceqa --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/llava_test_CQM-A.json" --images "$data/images/test" --annotations "$data/problems.json" \
    "${@:3}"
