#!/usr/bin/env bash
# Fresh machine -> .venv, installation with the test extras, the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup_venv.sh tests
unset PYTHONDONTWRITEBYTECODE  # or every process compiles this package anew
exec python -m pytest "$@"
