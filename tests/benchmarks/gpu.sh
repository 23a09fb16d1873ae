#!/usr/bin/env bash
# Measures the fast path on a GPU, in 8 minutes at most: equalities first, then the table for BENCHMARKS.md.
#   tests/benchmarks/gpu.sh [options of gpu_table.py]
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD:$PWD/platform:$PWD/tests/benchmarks:$PWD/tests/support${PYTHONPATH:+:$PYTHONPATH}"
PYTHON=${PYTHON:-python3}
if [ -z "${SKIP_TESTS:-}" ]; then
    timeout 120 "$PYTHON" -m pytest -q -m gpu tests/training/test_gpu.py || echo "Some tests on the GPU failed or were cut." >&2
fi
timeout "${LIMIT:-350}" "$PYTHON" tests/benchmarks/gpu_table.py --limit 240 "$@"
