#!/usr/bin/env bash
# RefCOCO, RefCOCO+ or RefCOCOg, one split of those below, by default refcoco_val:
#   SPLIT=refcoco+_testA scripts/eval/refcoco.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/refcoco
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval refcoco --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/${SPLIT:-refcoco_val}.jsonl" --images "$data" \
    "${@:3}"
