#!/usr/bin/env bash
# What the scripts of this folder begin with: the project's folder and Python, and steps that are done once.
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then # the comment at the top of the script
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
[ -n "${VIRTUAL_ENV:-}" ] || [ ! -x .venv/bin/python ] || PATH="$root/.venv/bin:$PATH"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
here=scripts/reproduce
dry=
[ "${1:-}" != --dry-run ] || dry=--dry-run

step() { # step NAME RESULT COMMAND ...: a command that makes a file, unless it is there; in a dry run it is printed
    local name=$1 result=$2
    shift 2
    if [ -e "$result" ] && [ ! -e "$(dirname "$result")/.partial" ]; then
        echo "== $name: done ($result)" >&2
    elif [ -n "$dry" ]; then
        echo "== $name:" >&2
        printf '    ' >&2
        printf '%q ' "$@" >&2
        echo >&2
    else
        echo "== $name" >&2
        "$@"
    fi
}
