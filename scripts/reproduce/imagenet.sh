#!/usr/bin/env bash
# The published SparseFormers on ImageNet-1K's validation images, which you have: those of CLIP without having seen a
# class, beside the CLIP that they come from, and the others as the classifiers that they are. docs/reproduce.md
#
#   scripts/reproduce/imagenet.sh [--dry-run] IMAGES [NAME ...]
#
# IMAGES is a folder with a folder per class, named by WordNet's ids, or webdataset:GLOB with a .cls beside each image;
# relative paths begin in the project's folder. NAMEs of published models; default: all seven. Each step is done once:
# the same call goes on after an interruption.
#
#   OUT      where everything goes (runs/reproduce/imagenet)
#   OPTIONS  of `mllm zeroshot`, such as "--batch-size 256 --autocast bfloat16 --workers 8"
#   FILES    the list of what is downloaded (scripts/reproduce/imagenet.yaml); HF_ENDPOINT, MIRROR: download.py
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
[ -z "$dry" ] || shift
images=${1:?"usage: scripts/reproduce/imagenet.sh [--dry-run] IMAGES [NAME ...]"} out=${OUT:-runs/reproduce/imagenet}
names=("${@:2}")
[ $# -gt 1 ] || names=(sparseformer_v1_{tiny,small,base} sparseformer_btsp_augreg_{base,large}
    sparseformer_btsp_openai_clip_{base,large})

for name in "${names[@]}"; do
    files=("$name") text=() twin=()
    case $name in
        *_clip_base) clip=ViT-B-16-quickgelu ;;
        *_clip_large) clip=ViT-L-14-quickgelu ;;
        *) clip= ;;
    esac
    if [ -n "$clip" ]; then
        files+=("$clip")
        weights=openai=$out/files/$clip.safetensors # the tag says which activation and preprocessing they need
        text=(--text "$clip" --text-weights "$weights")
        twin=(--model "$clip" --pretrained "$weights")
    fi
    python $here/download.py "${FILES:-$here/imagenet.yaml}" "${files[@]}" --out "$out/files" $dry
    step "$name: encoder" "$out/$name/config.json" \
        python $here/encoder.py "$name" --weights "$out/files/$name.pth" "${text[@]}" --out "$out/$name"
    # shellcheck disable=SC2086  # words
    step "$name: accuracy" "$out/$name.json" \
        mllm zeroshot "$images" --classes imagenet ${OPTIONS:-} --model "$out/$name" "${twin[@]}" --json "$out/$name.json"
done
[ -n "$dry" ] || python $here/imagenet_table.py "${names[@]/#/$out/}" | tee "$out/table.md"
