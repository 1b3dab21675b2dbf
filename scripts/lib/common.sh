# Shared by the scripts; sourced, not run. Sets root (the checkout) and cache.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${INVOPT_CACHE:-$HOME/.cache/inv-opt}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac
export INVOPT_CACHE=$cache
case ${INVOPT_TORCH_DIR:-/} in
/*) ;;
*) export INVOPT_TORCH_DIR=$PWD/$INVOPT_TORCH_DIR ;;
esac

say() { printf '%s: %s\n' "${me:-inv-opt}" "$*" >&2; }

# fail CODE MESSAGE...
fail() {
  local code=$1
  shift
  say "$*"
  exit "$code"
}

# timed TEXT COMMAND...: a progress line, the command with its output in a log,
# the seconds; the log is shown where the command fails.
timed() {
  local text=$1 start=$SECONDS log rc=0
  shift
  log=$(mktemp)
  printf '%s: %s ... ' "${me:-inv-opt}" "$text" >&2
  "$@" >"$log" 2>&1 </dev/null || rc=$?
  if [ "$rc" = 0 ]; then
    printf '%d s\n' $((SECONDS - start)) >&2
  else
    printf 'failed (exit %d)\n' "$rc" >&2
    tail -n 40 "$log" >&2
  fi
  rm -f "$log"
  return "$rc"
}

# One job a core, and not more than memory allows: a test that includes torch
# and gtest takes up to 1.8 GB to compile.
defaultJobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable/ {print int($2 / 1800000)}' /proc/meminfo)
  [ "${memory:-1}" -ge 1 ] || memory=1
  echo $((cores < memory ? cores : memory))
}

# enterEnvironment: the tools of .deps come first, objects go to one ccache.
enterEnvironment() {
  unset PYTHONPATH PYTHONHOME
  export PATH="$root/.deps/bin:$PATH"
  export CCACHE_DIR=${CCACHE_DIR:-$cache/ccache}
}

# False where the user's own LibTorch brings no torch for Python. (Set-up tried
# the one that it installed.)
havePythonTorch() {
  [ -z "${INVOPT_TORCH_DIR:-}" ] ||
    "$root/.deps/bin/python" -c 'import torch' 2>/dev/null
}
