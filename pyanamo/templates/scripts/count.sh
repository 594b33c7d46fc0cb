#!/usr/bin/env bash
# A task script: counts up to its last argument. PyAnamo appends the nest's value to TaskScript; by hand:
#   scripts/count.sh 5
#
# Exit 0: done. 64 or 65: wrong for ever, do not try again. 75: try again. 78: the set-up is wrong, stop the run.
# Anything else: an error, tried again a few times.
set -euo pipefail

label=""
if [[ "${1:-}" == "--label" ]]; then
    label="${2:?--label needs a word}: "
    shift 2
fi
last="${1:?usage: count.sh [--label WORD] NUMBER}"
if ! [[ "$last" =~ ^[0-9]{1,9}$ ]]; then
    echo "count.sh: '$last' is no number" >&2
    exit 65
fi

sum=0
for ((number = 1; number <= last; number += ${STEP:-1})); do
    echo "${label}${number}"
    sum=$((sum + number))
done

# Lines that start with PyAnamo: and a tab are results; `pyanamo results list` shows them.
printf 'PyAnamo:\tsum\t%d\n' "$sum"
