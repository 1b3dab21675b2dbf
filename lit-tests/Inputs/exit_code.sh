#!/bin/sh
# exit_code.sh N COMMAND...: succeeds where the command exits with N.
want=$1
shift
"$@"
got=$?
[ "$got" = "$want" ] || { echo "exit code $got, not $want" >&2; exit 1; }
