# Sourced by the other scripts, never run: environments under .venvs/, made when missing or stale.
#
# One environment, .venvs/tools, has pip and the build tools; it fills all the others
# (`pip --python`), so that those hold what they are for and nothing else.
#
# For the caller: $root, $python (the interpreter chosen) and the functions below.

set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"

# What a user's own settings must not do to these environments. Indexes, proxies, caches and
# certificates stay as they are.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIREMENT PIP_CONSTRAINT PIP_NO_DEPS
unset PIP_EDITABLE PIP_DRY_RUN PIP_PYTHON PIP_REQUIRE_HASHES
[ -n "${HOME-}" ] || unset HOME
export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONNOUSERSITE=1

say() { printf '%s\n' "websessions: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# The interpreter: $PYTHON if set, else the first of the usual names that is new enough.
find_python() {
    if [ -n "${PYTHON-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of 3.11 or newer"
        python=$PYTHON
    else
        python=
        for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
            if usable "$candidate"; then
                python=$candidate
                break
            fi
        done
        [ -n "$python" ] || fail "needs Python 3.11 or newer; name one with PYTHON=/path/to/python3"
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv and ensurepip modules (Debian and Ubuntu: apt install python3-venv)"
}

# stamp ENVIRONMENT: what that environment was made from. Another value makes it stale.
stamp() {
    pins=$constraints
    [ "$1" != .venvs/tools ] || pins=constraints.txt
    {
        printf '%s\n' "$root" "$1"
        "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
        cat pyproject.toml scripts/env.sh "$pins"
    } | cksum
}

# Leaves the constraints in force in $constraints: constraints.txt or, with WEBSESSIONS_SQLALCHEMY=2.0,
# the same with the pins that constraints-sqlalchemy-2.0.txt replaces.
find_constraints() {
    constraints=constraints.txt
    [ -n "${WEBSESSIONS_SQLALCHEMY-}" ] || return 0
    override=constraints-sqlalchemy-$WEBSESSIONS_SQLALCHEMY.txt
    [ -f "$override" ] || fail "WEBSESSIONS_SQLALCHEMY=$WEBSESSIONS_SQLALCHEMY: there is no $override"
    constraints=.venvs/$override
    mkdir -p .venvs
    {
        cat "$override"
        awk -F== '{ name = tolower($1) }
            NR == FNR { if (NF == 2) replaced[name]; next }
            !(name in replaced)' "$override" constraints.txt
    } >"$constraints.$$"
    mv "$constraints.$$" "$constraints"
}

# pip_for ENVIRONMENT ARGUMENTS...: pip from the tools, working on another environment.
pip_for() {
    target=$1
    shift
    .venvs/tools/bin/python -m pip --quiet --quiet --python "$target/bin/python" "$@" </dev/null
}

fresh() { [ "$(cat "$1/.stamp" 2>/dev/null)" = "$(stamp "$1")" ] && [ -x "$1/bin/python" ]; }

tools() {
    fresh .venvs/tools && return
    say "making .venvs/tools (pip, build)"
    rm -rf .venvs/tools
    "$python" -m venv .venvs/tools
    .venvs/tools/bin/python -m pip --quiet --quiet install --constraint constraints.txt pip </dev/null
    .venvs/tools/bin/python -m pip --quiet --quiet install --constraint constraints.txt --group build </dev/null
    stamp .venvs/tools >.venvs/tools/.stamp
}

# build_wheel NAME: the source distribution, and from that the wheel; its path is left in $wheel.
# Each environment has its own, so that two scripts can run side by side.
build_wheel() {
    tools
    dist=.venvs/dist/$1
    rm -rf "$dist"
    mkdir -p "$dist"
    .venvs/tools/bin/python -m build --no-isolation --outdir "$dist" . >"$dist/log" 2>&1 </dev/null || {
        cat "$dist/log" >&2
        fail "the wheel could not be built"
    }
    wheel=$(echo "$root/$dist"/websessions-*.whl)
}

# environment NAME EXTRAS GROUP...: .venvs/NAME with the wheel, its EXTRAS ("" for none) and the
# dependency groups. The wheel is built anew every time; the rest only when stale. Its path is left in $env.
environment() {
    env=.venvs/$1
    extras=$2
    build_wheel "$1"
    shift 2
    if fresh "$env"; then
        pip_for "$env" install --no-deps --force-reinstall "$wheel"
        return
    fi
    say "making $env"
    rm -rf "$env"
    "$python" -m venv --without-pip "$env"
    groups=
    for group; do groups="$groups --group $group"; done
    # shellcheck disable=SC2086 # group names are words
    pip_for "$env" install --constraint "$constraints" "$wheel${extras:+[$extras]}" $groups
    stamp "$env" >"$env/.stamp"
}

# node_packages FOLDER PACKAGE_JSON: what that file names, with no lock file, in FOLDER/node_modules. Made
# when missing or when the file has changed; false where there is no npm, or where it fails.
node_packages() {
    command -v npm >/dev/null || return 1
    ! cmp -s "$2" "$1/package.json" || return 0
    say "making $1"
    rm -rf "$1"
    mkdir -p "$1"
    # What has to be compiled takes the headers that came with Node, where they are.
    node_root=$(dirname -- "$(dirname -- "$(readlink -f "$(command -v node)")")")
    [ ! -e "$node_root/include/node/node.h" ] || export npm_config_nodedir="$node_root"
    # shellcheck disable=SC2046 # names and versions are words
    npm install --prefix "$1" --no-audit --no-fund --no-package-lock --loglevel=error \
        $(sed -n '/"dependencies"/,/}/s/^ *"\(.*\)": "\(.*\)",*$/\1@\2/p' "$2") >&2 </dev/null || return 1
    cp "$2" "$1/package.json"
}

find_python
find_constraints
