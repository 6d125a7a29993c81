#!/usr/bin/env bash
# All that needs a GPU, in under eight minutes: parity with the CPU, the first steps of `bmvc2022`, tests/test_devices.py,
# and the GPU part of `make benchmarks`. Records lie in RECORDS as JSON; gpu-parts.json says which part ended how.
#
#     benchmarks/gpu.sh                 on a machine with torch and a GPU; without a GPU it says so and ends with 0
#     DEVICE=cpu benchmarks/gpu.sh      the same parts at toy size on the processor, to try the script itself
#
# PYTHON: the interpreter (.venv's, else python3). RECORDS: outputs/benchmarks. BUDGET: seconds in all, 470 on a GPU.
# WHEELS: a folder of wheels to install what is missing from, where the machine has no network.
set -u
cd "$(dirname "$0")/.." || exit 1
ROOT=$PWD
DEVICE=${DEVICE:-cuda}
RECORDS=${RECORDS:-outputs/benchmarks}
if [ "$DEVICE" = cuda ]; then BUDGET=${BUDGET:-470}; else BUDGET=${BUDGET:-1800}; fi
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=$ROOT/.venv/bin/python
fi
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$RECORDS" || exit 1
SECONDS=0
PARTS=""

finish() {  # finish NOTE
    printf '{"gpu": %s, "device": "%s", "note": "%s", "seconds": %d, "parts": {%s}}\n' \
        "$GPU" "$DEVICE" "$1" "$SECONDS" "${PARTS#, }" > "$RECORDS/gpu-parts.json"
    echo "$1; $RECORDS/gpu-parts.json"
}

part() {  # part NAME MOST_SECONDS COMMAND...: no longer than MOST_SECONDS, nor than what is left of the budget
    local name=$1 most=$2 left=$((BUDGET - SECONDS)) start=$SECONDS code
    shift 2
    [ "$left" -lt "$most" ] && most=$left
    if [ "$most" -lt 5 ]; then
        code=124
    else
        echo "== $name: $*"
        timeout -k 5 "$most" "$@"
        code=$?
    fi
    [ "$code" -eq 124 ] && echo "== $name: ran out of time"
    [ "$code" -ne 0 ] && FAILED=1
    PARTS="$PARTS, \"$name\": {\"exit\": $code, \"seconds\": $((SECONDS - start))}"
}

"$PYTHON" -c 'import torch' || { echo "$PYTHON has no torch: set PYTHON" >&2; exit 1; }
GPU=$("$PYTHON" -c 'import json, torch
print(json.dumps(torch.cuda.get_device_name() if torch.cuda.is_available() else None))')
FAILED=0
if [ "$DEVICE" = cuda ] && [ "$GPU" = null ]; then
    finish "no GPU was there"
    exit 0
fi

NEEDED="open_clip, timm, transformers, einops, jaxtyping, pydantic, safetensors, typer, pytest, beartype, hypothesis, skimage"
if ! "$PYTHON" -c "import $NEEDED" 2> /dev/null; then
    part install 120 "$PYTHON" -m pip install --quiet ${WHEELS:+--no-index --find-links "$WHEELS"} -e '.[workbook,dev]'
fi

if [ "$DEVICE" = cuda ]; then
    part gpu 150 "$PYTHON" benchmarks/gpu.py --device cuda --json "$RECORDS/gpu.json"
    part devices 60 "$PYTHON" -m pytest -q tests/test_devices.py
    part training 150 "$PYTHON" benchmarks/training.py --device cuda --precision bf16 --images 32 --turns 5 \
        --json "$RECORDS/training-gpu.json"
    part inference 60 "$PYTHON" benchmarks/inference.py --device cuda --json "$RECORDS/inference-gpu.json"
    part features 60 "$PYTHON" benchmarks/features.py --device cuda --json "$RECORDS/features-gpu.json"
    part encoders 90 "$PYTHON" benchmarks/encoders.py --device cuda --turns 3 --json "$RECORDS/encoders-gpu.json"
    part scale 120 "$PYTHON" benchmarks/scale.py --device cuda --precision bf16 --images 8 16 32 64 \
        --json "$RECORDS/scale-gpu.json"
else
    part gpu 300 "$PYTHON" benchmarks/gpu.py --device "$DEVICE" --encoder clip-vit-b16 --batch 2 --steps 4 --workers 0 \
        --toy --json "$RECORDS/gpu-toy.json"
    part devices 120 "$PYTHON" -m pytest -q tests/test_devices.py
    part training 900 "$PYTHON" benchmarks/training.py --device "$DEVICE" --encoder clip-vit-b16 --images 1 --turns 1 \
        --json "$RECORDS/training-toy.json"
fi
if [ "$FAILED" -eq 0 ]; then finish "all parts ended well"; else finish "a part failed or ran out of time"; fi
exit "$FAILED"
