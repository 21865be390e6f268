#!/usr/bin/env bash
# One model for every budget of tokens and pixels, beside models for one number of tokens: docs/budget.md.
#
#   scripts/budget.sh [TOKENS ...]
#
# TOKENS are those of the models that are trained for one number alone (8 16 64); one more is given all patches of the
# encoder's teacher. All recipes are scripts/recipes/small's; everything goes to $OUT (runs/small), and what is there is
# gone on with. About an hour on 2 CPU cores for the model for every budget with its teacher, and half an hour for each of
# the others.
#
#   COUNT      questions of each evaluation (2100)
#   PROCESSES  of each training but the teacher's, which has two (1)
#   PAGE       docs/budget.md
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
out=${OUT:-runs/small} page=${PAGE:-docs/budget.md} recipes=scripts/recipes/small
singles=("$@")
[ $# -gt 0 ] || singles=(8 16 64)
mkdir -p "$out/eval"

train() { # train SCRIPT RECIPE FOLDER [key=value ...]: unless it is there, and on where it has begun
    local script=$1 recipe=$2 folder=$3 resume=()
    shift 3
    [ ! -f "$folder/config.json" ] && [ ! -f "$folder/open_clip_config.json" ] || return 0
    [ ! -e "$folder" ] || resume=(--resume)
    PROCESSES=${PROCESSES:-1} "scripts/$script.sh" "$recipe" output="$folder" "$@" "${resume[@]}"
}

model() { # model FOLDER TOKENS [key=value ... of bootstrapping]: encoder, projector, model
    local folder=$1 tokens=$2
    shift 2
    train bootstrap $recipes/bootstrap.yaml "$folder/encoder" teacher="$out/teacher" "$@"
    train projector $recipes/projector.yaml "$folder/projector" encoder="$folder/encoder" \
        image_tokens="$tokens"
    DEEPSPEED=scripts/deepspeed/zero2.json train full $recipes/full.yaml "$folder/model" model="$folder/projector" \
        image_tokens="$tokens"
}

ask() { # ask NAME MODEL [OPTION ...]: an evaluation, unless it is there
    local name=$1 model=$2
    shift 2
    [ -f "$out/eval/$name.json" ] || mllm eval synthetic --model "$model" --count "${COUNT:-2100}" --scale 0.3-1 \
        --json "$out/eval/$name.json" "$@" >/dev/null
}

PROCESSES=2 train train_clip $recipes/teacher-112.yaml "$out/teacher-112"
PROCESSES=2 train train_clip $recipes/teacher.yaml "$out/teacher" init_from="$out/teacher-112"
model "$out/elastic" '[4,64]'
ask tokens "$out/elastic/model" --size 224 --image-size 224 --tokens 4,5,6,8,10,12,16,20,24,32,40,48,56,64
for side in 112 224 336 448 1024; do
    ask "size-$side" "$out/elastic/model" --size 1024 --image-size $side --tokens 16,64 --by size
done
for tokens in "${singles[@]}"; do
    model "$out/$tokens" "[$tokens]" student.num_tokens="$tokens" 'report_tokens=[]' \
        stages.0.elastic=null stages.1.elastic=null
    ask "single-$tokens" "$out/$tokens/model" --size 224 --image-size 224
done
# The teacher's own tower, its images as large as the budgets' (224 pixels).
[ -d "$out/dense-tower" ] || python -m encoder.teachers.dense_tower "$out/teacher" --out "$out/dense-tower" >/dev/null
scenes=synthetic:train:100000:size=224:scale=0.3-1:lists=0.15:descriptions=0.05
train projector $recipes/projector.yaml "$out/dense/projector" encoder="$out/dense-tower" \
    image_tokens=null roi_embedding=false vision_feature_select_strategy=default
DEEPSPEED=scripts/deepspeed/zero2.json train full $recipes/full.yaml "$out/dense/model" model="$out/dense/projector" \
    image_tokens=null image_sizes=null "data=[$scenes, $scenes:objects=2:text=0.6]"
ask dense-224 "$out/dense/model" --size 1024 --by size
python -m mllm.lab.budget "$page" "$out/eval"
