#!/usr/bin/env bash
# TextVQA, validation; add --ocr to leave the OCR tokens in the prompt, as LLaVA reports it:
#   scripts/eval/textvqa.sh MODEL OUT [flags of mllm eval]
# EVAL_DATA: where LLaVA's evaluation files are, in its layout; default playground/data/eval.
data=${EVAL_DATA:-playground/data/eval}/textvqa
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval textvqa --model "${1:?$usage}" --out "${2:?$usage}" \
    --questions "$data/llava_textvqa_val_v051_ocr.jsonl" --images "$data/train_images" \
    --annotations "$data/TextVQA_0.5.1_val.json" \
    "${@:3}"
