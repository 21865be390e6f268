#!/usr/bin/env bash
# All tables of docs/performance.md, and the page itself:
#
#   scripts/performance.sh [PART ...]
#
# PART is one of encoder, resolution, tokens, compiled, profile, first-token, train, answers and start-up; default: all of
# them. A part writes its figures to $OUT/PART.json (OUT: runs/performance), and is not run again while they lie there: after
# an interruption the same call goes on. The page, $PAGE (docs/performance.md) with a .json beside it, and a picture of what
# resolution and tokens cost, is made from what is there.
#
# It wants a quiet machine. Settings, to try it with less or to measure something else:
#   REPEATS          repeats that are timed (10), WARM_UP repeats before them (2)
#   BATCH            images at a time (8); answers to first tokens, and images of several sizes, are timed one by one
#   SIDES            of images in resolution, pixels (224,336,448,672,1024), RESOLUTION_REPEATS there (3: five minutes)
#   TOKENS           numbers of them in tokens (8,16,32)
#   DEVICE           cpu, DTYPES of encoder and first-token (float32 bfloat16)
#   OFFICIAL         a checkout of github.com/showlab/sparseformer, which encoder times beside ours (none)
#   ENCODERS         models of encoder (the preset ones), RESOLVED of resolution and tokens, COMPILED of compiled, TRAINED
#                    of train, ANSWERING of first-token, PROFILED of profile
#   LANGUAGE_MODELS  of first-token (1.1B)
#   MODEL            the model directory that answers, and that start-up chats with (the embedded one)
# Lists are separated by blanks.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
# As scripts/launch.sh does: glibc keeps what is freed.
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:--1} MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-2147483647}
out=${OUT:-runs/performance} page=${PAGE:-docs/performance.md} device=${DEVICE:-cpu}
all=(encoder resolution tokens compiled profile first-token train answers start-up)
int8=(--int8)
[ "$device" = cpu ] || { all=(encoder resolution tokens compiled first-token train answers start-up) int8=(); }
parts=("$@")
[ $# -gt 0 ] || parts=("${all[@]}")
for part in "${parts[@]}"; do
    if [[ " ${all[*]} " != *" $part "* ]]; then
        echo "error: there is no part $part on $device; parts are: ${all[*]}" >&2
        exit 2
    fi
done
mkdir -p "$out"

each() { # each OPTION LIST: the option again and again, a word of the list behind it
    local word
    for word in $2; do printf '%s\n%s\n' "$1" "$word"; done
}

bench() { # bench PART BENCH [OPTION ...]: mllm bench BENCH, unless the part's figures are there
    local part=$1 start=$SECONDS
    shift
    if [ -f "$out/$part.json" ]; then
        echo "== $part: done; delete $out/$part.json to run it again" >&2
        return
    fi
    echo "== $part: mllm bench $*" >&2
    python -m mllm bench "$@" --repeats "${REPEATS:-10}" --warm-up "${WARM_UP:-2}" --json "$out/$part.json" >/dev/null
    echo "== $part: $((SECONDS - start)) s" >&2
}

large="sparseformer_btsp_openai_clip_large ViT-L-14" base="sparseformer_btsp_openai_clip_base ViT-B-16"
mapfile -t dtypes < <(each --dtype "${DTYPES:-float32 bfloat16}")
official=(${OFFICIAL:+--official "$OFFICIAL"})
for part in "${parts[@]}"; do
    place=(--device "$device" --batch-size "${BATCH:-8}")
    case $part in
    encoder)
        mapfile -t models < <(each --model "${ENCODERS:-}")
        bench encoder encoder "${models[@]}" "${place[@]}" "${dtypes[@]}" "${int8[@]}" "${official[@]}"
        ;;
    resolution)
        mapfile -t models < <(each --model "${RESOLVED:-$large}")
        REPEATS=${RESOLUTION_REPEATS:-3} WARM_UP=0 bench resolution resolution "${models[@]}" --device "$device" \
            --image-size "${SIDES:-224,336,448,672,1024}"
        ;;
    tokens)
        mapfile -t models < <(each --model "${RESOLVED:-$large}")
        bench tokens encoder --tokens "${TOKENS:-8,16,32}" "${models[@]}" "${place[@]}"
        ;;
    compiled)
        mapfile -t models < <(each --model "${COMPILED:-$large $base}")
        bench compiled encoder --compile "${models[@]}" "${place[@]}"
        ;;
    profile)
        mapfile -t models < <(each --model "${PROFILED:-}")
        bench profile encoder --profile "${models[@]}" "${place[@]}"
        ;;
    first-token)
        mapfile -t models < <(each --model "${ANSWERING:-}" && each --language-model "${LANGUAGE_MODELS:-1.1B}")
        bench first-token first-token "${models[@]}" --device "$device" --batch-size 1 "${dtypes[@]}"
        ;;
    train)
        mapfile -t models < <(each --model "${TRAINED:-}")
        bench train train "${models[@]}" "${place[@]}"
        ;;
    answers)
        mapfile -t models < <(each --model "${MODEL:-}")
        bench answers answers "${models[@]}" --device "$device"
        ;;
    start-up)
        mapfile -t models < <(each --model "${MODEL:-}")
        bench start-up start-up "${models[@]}"
        ;;
    esac
done

reports=()
for part in "${all[@]}"; do
    [ ! -f "$out/$part.json" ] || reports+=("$out/$part.json")
done
python -m mllm.lab.benchmarking.report "$page" "${reports[@]}"
echo "== $page: ${#reports[@]} of ${#all[@]} parts" >&2
