#!/bin/sh
# One stretch of training on a machine that is lent for minutes; run again with the same RUN and it goes on.
#
#     sh benchmarks/train_default.sh PHOTOS RUN SECONDS PACKED [options of pconv train]
#
# Trains for SECONDS at most, then packs weights and checkpoint into PACKED (see lease.py). On a new machine, put PACKED
# back first: it is unpacked where RUN has no checkpoint. TRAINING.md has the options that the default weights were
# trained with.
set -eu
photos=$1 run=$2 seconds=$3 packed=$4
shift 4
out=$run/w.safetensors
python=${PYTHON:-python3}
if [ ! -f "$out.checkpoint" ] && ls "$packed"/training.00 > /dev/null 2>&1; then
    "$python" -m benchmarks.lease unpack "$packed" "$out"
fi
if [ -f "$out.checkpoint" ]; then set -- "$@" --resume; fi
code=0
timeout "$seconds" "$python" -m pconv_cli train "$photos" --out "$out" --progress plain "$@" || code=$?
# 124: the time is over; 0: so is the training. Anything else is an error, and what was saved before is packed.
"$python" -m benchmarks.lease pack "$out" "$packed"
if [ "$code" -ne 124 ]; then exit "$code"; fi
