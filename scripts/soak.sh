#!/usr/bin/env bash
# Ask a server for a long time: ten thousand damaged requests, what schemathesis makes of its OpenAPI description, then
# many clients while it is ended, killed and started again:
#   scripts/soak.sh [--minutes 30] [--clients 32] [--restart MINUTES] [--seed 0] [--model DIR] [--out FILE.json]
# Exits with 1 if a request got 500 or more, an answer differed, or one was cut off that should not have been.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x "$root/.venv/bin/python" ] || PATH="$root/.venv/bin:$PATH"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_VISIBLE_DEVICES=
cd "$root"
port=${MLLM_SOAK_PORT:-8799} url=http://127.0.0.1:${MLLM_SOAK_PORT:-8799}
python -m mllm serve --port "$port" &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
until curl --silent --output /dev/null "$url/health"; do kill -0 $server && sleep 0.2; done
python -m tests.serving_fuzz --url "$url" --count "${MLLM_SOAK_REQUESTS:-10000}"
if command -v schemathesis > /dev/null; then # pip install schemathesis
    schemathesis run "$url/v1/openapi.json" --checks not_a_server_error --max-examples 1000 --request-timeout 60
else
    echo "schemathesis is not installed: left out" >&2
fi
kill $server
wait $server || true
exec python "$root/scripts/soak_serving.py" "$@"
