#!/usr/bin/env bash
# What one GPU makes of this project, in at most ten minutes, the most telling parts first:
#
#   scripts/gpu_check.sh [PART ...]       parts: kernels tests encoder compiled first-token train zero training
#   scripts/gpu_check.sh --dry-run        every part at a tiny size, on any machine, to see that it works
#
# Each part writes $OUT/PART.json (OUT: runs/gpu), and the page docs/performance-gpu.md is made again after it, so that an
# interruption loses nothing and the same call goes on. Settings: MINUTES (10) for all parts together; WHEELS, a folder
# of wheels for what the machine's Python lacks (it needs torch; nothing is fetched); PYTHON; TRAINING, the command that
# the last part gives the time that is left (scripts/pipeline.sh tiny --resume).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
python=${PYTHON:-$(command -v python || command -v python3)}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    PYTHONPATH="$PYTHONPATH:$site"
fi
if ! command -v mllm >/dev/null; then # as after an installation
    bin=$(mktemp -d)
    printf '#!/bin/sh\nexec "%s" -m mllm "$@"\n' "$python" >"$bin/mllm"
    ln -s "$python" "$bin/python"
    chmod +x "$bin/mllm"
    PATH="$bin:$PATH"
fi
exec "$python" scripts/gpu_check.py "$@"
