#!/usr/bin/env bash
# LLaVA-1.5 (arXiv 2310.03744) with the 64 tokens of the published SparseFormer-CLIP-L and, as its twin, with the 576 of
# CLIP ViT-L/14-336: files, both stages, eight benchmarks, and one table beside published results. docs/reproduce.md
#
#   scripts/reproduce/llava15.sh [--dry-run] [key=value ...]
#
# Each step is done once, and the same call goes on after an interruption. key=value overrides the recipes of both
# stages. --dry-run says what is done and what is left, what it takes of the disk, and which GPUs for how many hours, as
# `mllm info` estimates it.
#
#   MODELS          of "sparse dense": both
#   STAGE2          lora (the default) or full
#   LANGUAGE_MODEL  its directory; default: Vicuna-7B v1.5, which is downloaded
#   CHAT_TEMPLATE   vicuna; null takes the language model's own
#   BENCHMARKS      of "vqav2 gqa textvqa pope scienceqa mme mmbench refcoco": all
#   GPUS            1, 2, 4 or 8 (default: those there are): the batch stays that of 8, by accumulation
#   DATA            where files go, in LLaVA's layout (playground/data); what is there already is taken as it is
#   OUT             where all else goes (runs/reproduce/llava15)
#   WORKERS         threads that look at the images (8)
#   TEXT_TOKENS     of a sample, on average, in stage 1 and 2, for the hours: assumed to be "80 400"
#   FILES           the list of what is downloaded (scripts/reproduce/llava15.yaml); HF_ENDPOINT, MIRROR: download.py
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
[ -z "$dry" ] || shift
recipes=scripts/recipes/llava15 published=sparseformer_btsp_openai_clip_large
data=${DATA:-playground/data} out=${OUT:-runs/reproduce/llava15} stage2=${STAGE2:-lora}
language_model=${LANGUAGE_MODEL:-$data/weights/vicuna-7b-v1.5}
all="vqav2 gqa textvqa pope scienceqa mme mmbench refcoco"
models=${MODELS:-sparse dense} benchmarks=${BENCHMARKS:-$all}
gpus=${GPUS:-$(command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -c GPU || true)}
[ "${gpus:-0}" -gt 0 ] || gpus=8
[ -z "${GPUS:-}" ] || export PROCESSES=$GPUS
case $gpus-$stage2 in
    [1248]-lora | [1248]-full) ;;
    *) echo "error: GPUS=$gpus, STAGE2=$stage2: give 1, 2, 4 or 8, and lora or full" >&2 && exit 2 ;;
esac
for argument; do
    [[ $argument == *=* ]] || { echo "error: $argument: give key=value, after --dry-run or without (see --help)" >&2 && exit 2; }
done
overrides=(trainer.gradient_accumulation_steps=$((8 / gpus)) "$@")

check() { # check DATA IMAGES REPORT
    mllm check-data "$1" --image-folder "$2" --workers "${WORKERS:-8}" --max-bad-samples 0.05 --json "$3.new"
    mv "$3.new" "$3"
}

assembly() { # assembly MODEL: how its projector is put before the language model
    parts=(language_model="$language_model" chat_template="${CHAT_TEMPLATE:-vicuna}")
    case $1 in
        sparse) parts+=(vision_feature_select_strategy=full roi_embedding=true) ;; # the class token, and 63 with RoIs
        dense) parts+=(vision_feature_select_strategy=default) ;;
        *) echo "error: MODELS=$models: there are sparse and dense" >&2 && exit 2 ;;
    esac
}

# Files
unwanted=()
[ -z "${LANGUAGE_MODEL:-}" ] || unwanted+=(--without 'weights/vicuna*')
[[ " $models " == *" sparse "* ]] || unwanted+=(--without 'weights/sparseformer*')
[[ " $models " == *" dense "* ]] || unwanted+=(--without 'weights/clip*')
for benchmark in $all; do
    [[ " $benchmarks " == *" $benchmark "* ]] || unwanted+=(--without "eval/${benchmark/mme/MME}/*")
done
python $here/download.py "${FILES:-$here/llava15.yaml}" --out "$data" "${unwanted[@]}" $dry
[ -n "$dry" ] || mkdir -p "$out/checked" "$out/encoders"

# Data
captions=$data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json instructions=$out/llava_v1_5_mix665k.json
step "check captions" "$out/checked/pretrain.json" check "$captions" "$data/LLaVA-Pretrain/images" "$out/checked/pretrain.json"
step "boxes of the instructions" "$instructions" \
    python $here/boxes.py "$data/llava_v1_5_mix665k.json" --images "$data" --out "$instructions"
step "check instructions" "$out/checked/instruct.json" check "$instructions" "$data" "$out/checked/instruct.json"

# Models
for model in $models; do
    encoder=$out/encoders/$model
    assembly "$model"
    case $model in
        sparse) source=($published --weights "$data/weights/$published.pth") ;;
        dense) source=("$data/weights/clip-vit-large-patch14-336") ;;
    esac
    step "$model: encoder" "$encoder/config.json" \
        python $here/encoder.py "${source[@]}" --whole-image --out "$encoder"
    step "$model: stage 1" "$out/$model/projector/config.json" \
        scripts/projector.sh $recipes/projector.yaml encoder="$encoder" "${parts[@]}" data="[$captions]" \
        image_folder="$data/LLaVA-Pretrain/images" output="$out/$model/projector" "${overrides[@]}" --resume
    tuned=$out/$model/$stage2 made=config.json
    [ "$stage2" != lora ] || made=adapter_config.json
    step "$model: stage 2" "$tuned/$made" \
        scripts/$stage2.sh "$recipes/$stage2.yaml" model="$out/$model/projector" data="[$instructions]" \
        image_folder="$data" output="$tuned" "${overrides[@]}" --resume
    if [ "$stage2" = lora ]; then
        step "$model: merge" "$out/$model/merged/config.json" mllm merge "$tuned" --out "$out/$model/merged"
        tuned=$out/$model/merged
    fi
    for benchmark in $benchmarks; do
        ocr=()
        [ "$benchmark" != textvqa ] || ocr=(--ocr) # as LLaVA reports it
        step "$model: $benchmark" "$out/eval/$model/$benchmark/result.json" \
            env EVAL_DATA="$data/eval" scripts/eval/"$benchmark".sh "$tuned" "$out/eval/$model/$benchmark" "${ocr[@]}"
    done
done
if [ -z "$dry" ]; then
    python $here/table.py "$out/eval" | tee "$out/table.md"
    exit
fi

# What it would take
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
[ -f "$language_model/config.json" ] || language_model=$here/configs/vicuna-7b-v1.5
read -r short long <<<"${TEXT_TOKENS:-80 400}"
for model in $models; do
    encoder=$published tokens=64
    [ "$model" = sparse ] || encoder=$here/configs/clip-vit-large-patch14-336 tokens=576
    assembly "$model"
    for each in "projector 558128 $short" "$stage2 665298 $long"; do
        read -r recipe samples text <<<"$each"
        mllm info "$recipes/$recipe.yaml" model=null encoder="$encoder" "${parts[@]}" "${overrides[@]}" --gpus "$gpus" \
            --samples "$samples" --mean-length $((tokens + text)) --json >"$folder/$model-$recipe.json" 2>/dev/null
    done
done
python $here/estimates.py "$folder"/*.json
