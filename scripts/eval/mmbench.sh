#!/usr/bin/env bash
# MMBench, dev: the score, and the spreadsheet for its server:
#   scripts/eval/mmbench.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/mmbench
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval mmbench --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/mmbench_dev_20230712.tsv" \
    "${@:3}"
