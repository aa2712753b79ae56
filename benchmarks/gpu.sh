#!/bin/sh
# Numbers, compiled graphs, speed, memory and time to a loss on one GPU, in under nine minutes.
#
#   make gpu-bundle TEXT=tinyshakespeare.txt          once, where there is a network
#   benchmarks/gpu.sh --out results                   on the machine with the GPU, which needs none
#   benchmarks/gpu.sh --dry --out results             the same ways in small, on a CPU
#
# PYTHON names the interpreter that has torch; BUNDLE the folder of carried files (.gpu-bundle).
# Further options: --text FILE, --only SECTION..., see benchmarks/gpu/.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
bundle=${BUNDLE:-$root/.gpu-bundle}
if [ -d "$bundle/wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    # shellcheck disable=SC2046
    "$python" -m pip install --quiet --no-index --find-links "$bundle/wheels" \
        --no-compile --target "$site" $(cat "$bundle/requirements.txt")
    PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi
if [ -f "$bundle/shakespeare.txt" ]; then
    set -- --text "$bundle/shakespeare.txt" "$@"
fi
cd "$root"
"$python" -m benchmarks.gpu "$@"
