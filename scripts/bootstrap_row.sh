#!/usr/bin/env bash
# One row of the table in docs/bootstrapping.md: scripts/bootstrap_row.sh ROW [key=value ...]
#
# Bootstraps the tiny teacher (scripts/train_clip.sh scripts/recipes/tiny/teacher.yaml) with three seeds, one after the
# other, into runs/rows/ROW/SEED; scores teacher and student there with mllm zeroshot, retrieve and rois. What is
# finished is left alone. A run is one process with the whole batch, so several rows can run side by side, with
# OMP_NUM_THREADS=1 as many as there are cores.
# SEEDS: default "1 2 3".  TEACHER: default runs/tiny/teacher.
# scripts/bootstrap_table.py puts all rows into one table.
set -euo pipefail
row=${1:?usage: scripts/bootstrap_row.sh ROW [key=value ...]}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
teacher=${TEACHER:-runs/tiny/teacher}

# Lists are given whole: the tiny recipe's stages again, at its lengths, with what a row changes in them.
recipe=scripts/recipes/tiny/bootstrap.yaml
read -r first second < <(sed -nE 's/^ +steps: *([0-9]+).*/\1/p' "$recipe" | xargs)
batch=$(sed -nE 's/^ +per_device_train_batch_size: *([0-9]+).*/\1/p' "$recipe") # of each of the recipe's two processes
stages() { # stages RATES_OF_STAGE_2 [MORE]: with other rates in the second stage, and more fields in both
    echo "stages=[{name: focusing, steps: $first, learning_rates: {focusing: 2.0e-3}${2:-}}, \
{name: early-cortex, steps: $second, learning_rates: {$1}${2:-}}]"
}
both="focusing: 1.5e-3, early: 5.0e-4"
case $row in
    quarter) change=() ;;
    eighth) change=(student.num_tokens=8) ;;
    at-once) change=("stages=[{name: all, steps: $((first + second)), learning_rates: {$both}}]") ;;
    no-inheritance) change=(student.inherit=false "$(stages "$both, late: 5.0e-4")") ;;
    late-trained) change=("$(stages "$both, late: 5.0e-4")") ;;
    fixed-grid) change=(student.move_rois=false) ;;
    tokens-loss) change=(losses.tokens=1.0) ;;
    relational-loss) change=(losses.relational=1.0) ;;
    elastic) change=("$(stages "$both" ", elastic: [4, 16]")") ;;
    ema) change=(ema=0.99) ;;
    *)
        echo "error: no row $row; there are quarter eighth at-once no-inheritance late-trained fixed-grid tokens-loss" \
            "relational-loss elastic ema" >&2
        exit 2
        ;;
esac
images=synthetic:test:1000:size=64
for seed in ${SEEDS:-1 2 3}; do
    out=runs/rows/$row/$seed
    models=(--model "$teacher" --model "$out/student")
    mkdir -p "$out"
    if [ ! -f "$out/report.txt" ]; then
        PROCESSES=1 scripts/bootstrap.sh "$recipe" teacher="$teacher" output="$out/student" trainer.seed="$seed" \
            trainer.per_device_train_batch_size=$((2 * batch)) "${change[@]}" "${@:2}" --resume | tee "$out/report.partial"
        mv "$out/report.partial" "$out/report.txt"
    fi
    [ -f "$out/zeroshot.json" ] || mllm zeroshot $images "${models[@]}" --json "$out/zeroshot.json"
    [ -f "$out/retrieve.json" ] || mllm retrieve $images "${models[@]}" --json "$out/retrieve.json"
    [ -f "$out/rois.json" ] || mllm rois --model "$out/student" --json "$out/rois.json"
    if [[ $row =~ ^(quarter|elastic)$ && ! -f $out/tokens.json ]]; then # with how few tokens each can do
        mllm zeroshot $images --model "$out/student" --tokens 4 --tokens 6 --tokens 8 --tokens 12 --tokens 16 \
            --json "$out/tokens.json"
    fi
done
