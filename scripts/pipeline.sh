#!/usr/bin/env bash
# From nothing to an answer: teacher, bootstrap, language model, projector, LoRA, merge, score, chat.
#
#   scripts/pipeline.sh SIZE [--resume]
#
# SIZE is a folder of scripts/recipes/ (tiny: within 30 minutes on 2 CPU cores) with recipes for teacher, bootstrap, lm,
# projector and lora; one that it lacks is tiny's. Everything goes to runs/SIZE; how each training went, and how long it
# took, is in its metrics.json. --resume goes on after an interruption, at the step and the checkpoint where it was.
set -euo pipefail
size=${1:?usage: scripts/pipeline.sh SIZE [--resume]}
resume=${2:-}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
recipes=scripts/recipes/$size out=runs/$size
if [ ! -d "$recipes" ]; then
    echo "error: there is no $recipes; sizes are: $(ls scripts/recipes | tr '\n' ' ')" >&2
    exit 2
fi
if [ -e "$out" ] && [ "$resume" != --resume ]; then
    echo "error: $out is there already; add --resume to go on with it, or delete it" >&2
    exit 2
fi
mkdir -p "$out"

recipe() { # recipe NAME: the size's own, or tiny's
    [ -f "$recipes/$1.yaml" ] && echo "$recipes/$1.yaml" || echo "scripts/recipes/tiny/$1.yaml"
}

# shellcheck disable=SC2086  # $resume is empty or one word
{
    scripts/train_clip.sh "$(recipe teacher)" output="$out/teacher" $resume
    scripts/bootstrap.sh "$(recipe bootstrap)" teacher="$out/teacher" output="$out/encoder" $resume
    scripts/train_lm.sh "$(recipe lm)" output="$out/lm" $resume
    scripts/projector.sh "$(recipe projector)" encoder="$out/encoder" language_model="$out/lm" \
        output="$out/projector" $resume
    env DEEPSPEED=scripts/deepspeed/zero2.json \
        scripts/lora.sh "$(recipe lora)" model="$out/projector" output="$out/lora" $resume
}
last=lora
if [ -f "$recipes/more.yaml" ]; then # LoRA goes on, with another mixture
    last=more
    # shellcheck disable=SC2086
    env DEEPSPEED=scripts/deepspeed/zero2.json \
        scripts/lora.sh "$recipes/more.yaml" model="$out/lora" output="$out/more" $resume
fi
rm -rf "$out/model"
mllm merge "$out/$last" --out "$out/model"
[ -f "$out/eval.json" ] || mllm eval synthetic --model "$out/model" --count 2100 --json "$out/eval.json"
mllm chat --model "$out/model" --image examples/scene-1.png --prompt "how many objects are there?"
