# Sourced by quickstart.sh and test.sh: makes the virtual environment .venv, or reuses it, and installs the given
# requirements file into it. Afterwards `python` is the environment's.
requirements=$1
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: Python 3.10 or newer is needed; set PYTHON to one, as in PYTHON=python3.12 bash $0" >&2
    exit 2
fi
# Debian keeps the part of Python that fills a virtual environment in a package of its own.
if [ ! -x .venv/bin/pip ] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq python3-venv
    else
        echo "error: Python's venv is incomplete here: run 'sudo apt-get install python3-venv' and try again" >&2
        exit 2
    fi
fi
[ -x .venv/bin/pip ] || "$python" -m venv --clear .venv
stamp=.venv/installed-${requirements//\//-}
if [ ! -e "$stamp" ] || [ -n "$(find requirements.txt tests/requirements.txt -newer "$stamp")" ]; then
    echo "== installing $requirements into .venv (about two minutes)"
    .venv/bin/pip install --quiet --disable-pip-version-check -r "$requirements"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
