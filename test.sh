#!/usr/bin/env bash
# Installs what the tests need, checks the style and runs the tests in two processes, a file at a time. Arguments go to
# pytest: bash test.sh -m slow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. tools/install.sh tests/requirements.txt
ruff check .
export OMP_WAIT_POLICY=passive # threads that wait leave the cores to the other process
exec python -m pytest -n 2 --dist loadfile "$@"
