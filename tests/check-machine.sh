#!/bin/sh
# Say in one sentence what is missing on this machine. Usage: check-machine.sh python|go ...
set -eu

fail() {
  echo "$1" >&2
  exit 1
}

check_python() {
  python=${PYTHON:-python3}
  advice='install Python 3.11 or newer from your package manager or python.org, or name one: make PYTHON=python3.12 test.'
  command -v "$python" >/dev/null 2>&1 || fail "Spillway needs Python 3.11 or newer and \`$python\` is not on PATH: $advice"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || fail "Spillway needs Python 3.11 or newer and \`$python\` is $("$python" -V 2>&1 | cut -d' ' -f2): $advice"
  "$python" -c 'import ensurepip, venv' 2>/dev/null \
    || fail "\`$python\` cannot make virtual environments: install its venv package (python3-venv on Debian and Ubuntu)."
}

check_go() {
  need="Spillway's tests and demo need Go 1.26 or newer to build the control plane once"
  advice='install it from your package manager or go.dev.'
  command -v go >/dev/null 2>&1 || fail "$need and \`go\` is not on PATH: $advice"
  version=$(cd / && go env GOVERSION)
  minor=${version#go1.}
  minor=${minor%%[!0-9]*}
  [ "${minor:-0}" -ge 26 ] || fail "$need; this one is ${version#go}: $advice"
}

for tool in "$@"; do
  case $tool in
    python) check_python ;;
    go) check_go ;;
    *) fail "check-machine.sh knows python and go, not $tool" ;;
  esac
done
