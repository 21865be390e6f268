#!/usr/bin/env bash
# One row of the table in docs/results.md: scripts/compare_row.sh ROW [key=value ...]
#
# Takes the teacher, the encoder and the language model that scripts/pipeline.sh tiny leaves in runs/tiny, trains a
# projector and then all of the model by the tiny recipes with two seeds, one after the other, and asks about scenes. The
# rows differ in what the language model gets to see of an image of 64 patches:
#
#   sparse               the SparseFormer's 16 tokens, with an embedding of their RoIs
#   dense                all 64 patches of its teacher
#   dense-pool           16 means of four of them
#   dense-pixel-shuffle  16 times four of them side by side
#   dense-resampler      16 learned queries that read them
#
# All goes to runs/compare/ROW/SEED; what is finished is left alone, what was interrupted goes on. key=value overrides
# the recipe of stage 2. A run is one process with the whole batch, so several rows can run side by side, with
# OMP_NUM_THREADS=1 as many as there are cores.
# SEEDS: default "1 2".  QUESTIONS: default 2100.  PIECES: default runs/tiny.  OUT: default runs/compare.
set -euo pipefail
row=${1:?usage: scripts/compare_row.sh ROW [key=value ...]}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
pieces=${PIECES:-runs/tiny} results=${OUT:-runs/compare} recipes=scripts/recipes/tiny
dense=$results/dense-tower
batch=trainer.gradient_accumulation_steps=2 # one process takes the batches of the recipes' two
patches=(encoder="$dense" roi_embedding=false vision_feature_select_strategy=default) # no class token
case $row in
    sparse) parts=(encoder="$pieces/encoder") ;;
    dense) parts=("${patches[@]}") ;;
    dense-pool) parts=("${patches[@]}" projector=average_pool "projector_options={ratio: 2}") ;;
    dense-pixel-shuffle) parts=("${patches[@]}" projector=pixel_shuffle "projector_options={ratio: 2}") ;;
    dense-resampler) parts=("${patches[@]}" projector=resampler "projector_options={queries: 16}") ;;
    *)
        echo "error: no row $row; there are sparse dense dense-pool dense-pixel-shuffle dense-resampler" >&2
        exit 2
        ;;
esac
for piece in teacher encoder lm; do
    [ -d "$pieces/$piece" ] || { echo "error: there is no $pieces/$piece; scripts/pipeline.sh tiny makes it" >&2 && exit 2; }
done
[ -d "$dense" ] || [ "$row" = sparse ] || python -m encoder.teachers.dense_tower "$pieces/teacher" --out "$dense"

for seed in ${SEEDS:-1 2}; do
    out=$results/$row/$seed
    mkdir -p "$out"
    if [ ! -f "$out/projector/config.json" ]; then
        PROCESSES=1 scripts/launch.sh finetune "$recipes/projector.yaml" language_model="$pieces/lm" \
            output="$out/projector" "$batch" trainer.seed="$seed" "${parts[@]}" --resume
    fi
    if [ ! -f "$out/full/config.json" ]; then
        PROCESSES=1 scripts/launch.sh finetune "$recipes/full.yaml" model="$out/projector" \
            output="$out/full" "$batch" trainer.seed="$seed" "${@:2}" --resume
    fi
    mllm eval synthetic --model "$out/full" --count "${QUESTIONS:-2100}" --out "$out/eval"
done
