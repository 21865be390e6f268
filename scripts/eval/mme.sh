#!/usr/bin/env bash
# MME:
#   scripts/eval/mme.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/MME
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval mme --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/llava_mme.jsonl" --images "$data/MME_Benchmark_release_version" \
    --annotations "$data/MME_Benchmark_release_version" \
    "${@:3}"
