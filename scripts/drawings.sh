#!/usr/bin/env bash
# The model that comes with the package, made from what public packages carry: docs/drawings.md.
#
#   scripts/drawings.sh [recipe overrides of the last stage, such as trainer.max_steps=8000]
#
# Teacher, SparseFormer, self-distilled texts, projector, LoRA, each by its recipe in scripts/recipes/drawings; then every
# figure of the model card. Everything goes to $OUT (runs/drawings), and what is there is gone on with. About four hours
# on 2 CPU cores that do nothing else.
#
#   PROCESSES  of each training under the deepspeed launcher (1; two GPUs: 2)
#   COUNT      questions of each evaluation (1100)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
out=${OUT:-runs/drawings} recipes=scripts/recipes/drawings
export PROCESSES=${PROCESSES:-1}
mkdir -p "$out/eval"
for material in efficientnet-lite0 minilm vit-s-focus smollm2; do mllm fetch $material >/dev/null; done

train() { # train SCRIPT RECIPE FOLDER [key=value ...]: unless it is there, and on where it has begun
    local script=$1 recipe=$recipes/$2.yaml folder=$out/$3 resume=() made
    shift 3
    for made in config open_clip_config adapter_config; do
        [ ! -f "$folder/$made.json" ] || return 0
    done
    [ ! -e "$folder" ] || resume=(--resume)
    "scripts/$script.sh" "$recipe" output="$folder" "$@" "${resume[@]}"
}

train train_clip teacher-cnn teacher-cnn
train bootstrap bootstrap encoder teacher="$out/teacher-cnn"
[ -f "$out/texts/prompts.txt" ] || python scripts/drawings_texts.py "$out/texts"
for prompts in prompts held-out; do
    [ -f "$out/texts/$prompts/conversations.json" ] ||
        mllm self-distill --language-model material:smollm2 --prompts "$out/texts/$prompts.txt" --out "$out/texts/$prompts"
done
train projector projector projector encoder="$out/encoder"
DEEPSPEED=scripts/deepspeed/zero2.json train lora lora lora model="$out/projector" "$@"
scripts/drawings_figures.sh "$out/lora" "$out/eval"
