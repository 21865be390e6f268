#!/usr/bin/env bash
# One row of the table in docs/bootstrapping.md: scripts/bootstrap_row.sh ROW [key=value ...]
#
# Bootstraps the tiny teacher (scripts/teacher.sh scripts/recipes/tiny/teacher.yaml) with three seeds, one after the
# other, into runs/rows/ROW/SEED; scores teacher and student there with mllm zeroshot, retrieve and rois. A seed that is
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
    elastic) change=("$(stages "$both" ", elastic: [4, 16]")" "report_tokens=[4, 6, 8, 12]") ;;
    ema) change=(ema=0.99) ;;
    *)
        echo "error: no row $row; there are quarter eighth at-once no-inheritance late-trained fixed-grid tokens-loss" \
            "relational-loss elastic ema" >&2
        exit 2
        ;;
esac
for seed in ${SEEDS:-1 2 3}; do
    out=runs/rows/$row/$seed
    [ ! -f "$out/rois.txt" ] || continue
    mkdir -p "$out"
    PROCESSES=1 scripts/bootstrap.sh "$recipe" teacher="$teacher" output="$out/student" trainer.seed="$seed" \
        trainer.per_device_train_batch_size=$((2 * batch)) "${change[@]}" "${@:2}" --resume | tee "$out/report.txt"
    mllm zeroshot scenes:test:1000:64 --model "$teacher" --model "$out/student" --json "$out/zeroshot.json"
    mllm retrieve scenes:test:1000:64 --model "$teacher" --model "$out/student" --json "$out/retrieve.json"
    mllm rois --model "$out/student" >"$out/rois.partial"
    mv "$out/rois.partial" "$out/rois.txt"
    cat "$out/rois.txt"
done
