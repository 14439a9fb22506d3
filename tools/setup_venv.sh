# Sourced by quickstart.sh and run_tests.sh: makes .venv, installs the toolkit with the extras "$1", and activates it.
# PYTHON chooses the interpreter, INSTALL_OPTIONS are more words for pip. Installing again is quick, so the environment always fits the checkout.

PYTHON=${PYTHON:-python3}
version=$("$PYTHON" -c 'import sys; print(*sys.version_info[:2], sep=".")')
case $version in
    2.* | 3.[0-9])
        echo "omnimae needs Python 3.10 or newer; $PYTHON is $version. Run: PYTHON=/path/to/python3.12 bash $0" >&2
        exit 1
        ;;
    3.1[0-3]) ;;
    *) echo "Python $version is untried. Known to work are 3.10 to 3.13: PYTHON=/path/to/python3.12 bash $0" >&2 ;;
esac
if [ ! -x .venv/bin/python ]; then
    echo "Making .venv with $("$PYTHON" --version) ..."
    "$PYTHON" -m venv .venv
fi
source .venv/bin/activate
wanted="$1 $(cat pyproject.toml tools/setup_venv.sh | cksum)"
if [ "$(cat ".venv/installed-$1" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing omnimae and its dependencies from PyPI (PyTorch takes a minute or two) ..."
    python -m pip install --quiet --disable-pip-version-check ${INSTALL_OPTIONS:-} -e ".[$1]"
    # MMEngine's OpenCV opens windows with libGL.so.1, which slim containers lack. The headless one needs no library.
    if ! python -c 'import cv2' 2>/dev/null; then
        python -m pip uninstall --quiet --yes opencv-python opencv-contrib-python opencv-python-headless
        python -m pip install --quiet --disable-pip-version-check opencv-python-headless
    fi
    echo "$wanted" > ".venv/installed-$1"
fi
