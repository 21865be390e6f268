#!/usr/bin/env bash
# Generated scenes, which need no files:
#   scripts/eval/synthetic.sh MODEL OUT [flags of mllm eval]
usage="usage: $0 MODEL OUT [flags of mllm eval]"
exec "$(dirname "$0")/../launch.sh" eval synthetic --model "${1:?$usage}" --out "${2:?$usage}" "${@:3}"
