#!/bin/bash
# What a few minutes on one GPU tell: does everything run, how fast, and how good is a small run.
#
#   benchmarks/gpu.sh SECONDS OUT      ends within SECONDS; writes at most 8 files below 16 MB each into OUT
#
# It needs Python with PyTorch, this repository, and no network.  What else it is given:
#
#   WHEELS=folder    of wheels to install first, those of fastcore, safetensors, tqdm, matplotlib, pillow and of what they need
#                    that Python does not have yet, one version of each, for its version of Python
#   DATA=path        of the images of the run: a folder, zip, tar or npz of CIFAR-10;  IMAGES='CIFAR-10 (JPEG copy)' says what they are
#   EDM=folder       a clone of EDM's repository, whose own code is timed beside ours
#   FIRST=k          which of the runs below comes first; default 0
#   PARTS='run'      the parts that are wanted; default: checks speeds run
#   TINY=1           the rehearsal: everything at its smallest, on a CPU
#
# Parts come in the order of their value, each with its share of the time that is left.  Killed at any moment, it leaves
# in OUT what was found until then.
set -u
began=$SECONDS
total=${1:?SECONDS, e.g. 540}
out=$(mkdir -p "${2:?OUT, a folder}" && cd "$2" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)

# Runs in the order of their value: a recipe, and the seconds under which it is not begun
runs=(
    "cifar10-noise-0.2-small 150"
    "cifar10-noise-0.4-small 150"
    "cifar10-noise-0.1-small 150"
    "cifar10-mask-0.6-small 150"
    "cifar10-blur-small 150"
    "cifar10-sr-small 150"
    "phantoms-64-R4 150"
    "cifar10-noise-0.2 80000"
)
checks=60 speeds=90 reserve=10
if [ "${TINY:-}" ]; then
    runs=("digits-noise 2")
    checks=$((total/3)) speeds=$((total/3)) reserve=2
fi

say() { echo "$((SECONDS - began)) s: $*" >> "$out/log.txt"; }
left() { echo $((total - reserve - (SECONDS - began))); }

# pack: the small files of a run in one archive, and weights beside it if they are small enough
pack() {
    cd "$work/run" || return
    find . \( -name '*.json' -o -name '*.jsonl' -o -name '*.png' \) ! -name 'checkpoint-*' -print0 |
        timeout -k 1 "$reserve" tar --null -czf "$out/.record" -T - && mv "$out/.record" "$out/record.tar.gz"
    for weights in record/{teacher,generator,reference}.safetensors; do
        [ -f "$weights" ] || continue
        if [ "$(stat -c %s "$weights")" -lt 16000000 ]; then cp "$weights" "$out/.weights" && mv "$out/.weights" "$out/$(basename "$weights")"
        else say "$weights is too large, and is left out"; fi
    done
    cd "$here"
}

# keep: at the end, whatever the reason, the files of a run go where they are collected
keep() {
    trap - EXIT TERM INT HUP
    for child in $(jobs -p); do                 # by its number and by its group: it may not have one of its own yet
        kill -KILL "$child" 2> /dev/null
        kill -KILL -- "-$child" 2> /dev/null
    done
    [ -d "$work/run" ] && pack
    rm -rf "$work"
    say "end"
    exit "${1:-0}"
}
trap 'keep 0' EXIT
trap 'say "was told to stop"; keep 143' TERM INT HUP

# guarded SECONDS COMMAND...: runs it in a group of its own, for so many seconds at most
guarded() {
    setsid timeout -k 2 "$@" >> "$out/log.txt" 2>&1 &
    wait $!
}

# part NAME SECONDS: a part of gpu.py, for so many seconds or as are left
part() {
    local limit=$(( $2 < $(left) ? $2 : $(left) ))
    if [ "$limit" -lt 2 ]; then say "$1: no time is left"; return; fi
    say "$1: up to $limit s"
    guarded "$limit" python3 "$here/benchmarks/gpu.py" "$1" --seconds "$limit" --out "$out" --work "$work/run" \
        ${TINY:+--tiny} ${EDM:+--edm "$EDM"} ${DATA:+--data "$DATA"} --images "${IMAGES:-}" "${@:3}"
    say "$1: ended with $?"
}

export PYTHONPATH="$here:$here/tests:$work/lib${PYTHONPATH:+:$PYTHONPATH}"
say "begin"
[ "${WHEELS:-}" ] && guarded 60 python3 -m pip install -q --no-index --no-deps --no-compile --target "$work/lib" "$WHEELS"/*.whl

wanted() { [[ " ${PARTS:-checks speeds run} " == *" $1 "* ]]; }
wanted checks && part checks "$checks"
wanted speeds && part speeds "$speeds"
wanted run && for ((k = ${FIRST:-0}; k < ${#runs[@]}; k++)); do
    read -r recipe least <<< "${runs[k]}"
    if [ "$(left)" -lt "$least" ]; then say "$recipe: needs $least s"; continue; fi
    part run "$(left)" --recipe "$recipe"
    break                                       # one record, which is what fits into 8 files: the next call says FIRST
done
