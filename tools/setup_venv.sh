# Sourced by quickstart.sh and run_tests.sh: makes .venv, installs the toolkit with the extras "$1", and activates it.
# PYTHON chooses the interpreter. Installing again is quick, so the environment always fits the checkout.

PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))'; then
    echo "omnimae needs Python 3.10, 3.11 or 3.12; $PYTHON is $("$PYTHON" --version 2>&1)." \
        "Run: PYTHON=/path/to/python3.11 bash $0" >&2
    exit 1
fi
if [ ! -x .venv/bin/python ]; then
    echo "Making .venv with $("$PYTHON" --version) ..."
    "$PYTHON" -m venv .venv
fi
source .venv/bin/activate
wanted="$1 $(cat setup.py | cksum)"
if [ "$(cat ".venv/installed-$1" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing omnimae and its dependencies from PyPI (PyTorch takes a minute or two) ..."
    python -m pip install --quiet --disable-pip-version-check -e ".[$1]"
    echo "$wanted" > ".venv/installed-$1"
fi
