#!/bin/bash
# Explain images on several machines without a scheduler: start this on each of them, with its own NODE_RANK.
#
#   MASTER_ADDR=first-machine NODE_RANK=0 examples/torchrun.sh DATA --text-file labels.txt --out RUN
#   MASTER_ADDR=first-machine NODE_RANK=1 examples/torchrun.sh DATA --text-file labels.txt --out RUN
#
# DATA and RUN lie on a disk that all machines share. To try it on one machine, take 127.0.0.1 for MASTER_ADDR.
#
# NODES        how many machines                             (2)
# DEVICES      processes on each, one per GPU                (1)
# MASTER_ADDR  name or address of the machine of NODE_RANK 0
# MASTER_PORT  a free port of it                             (29500)
# NODE_RANK    number of this machine, from 0
#
# torchrun ends with 0 if all is done and all images could be read. Otherwise it ends with 1, and its report names
# the exit code of a rank: 1 done, but some images could not be read; 75 stopped early in good order; 2 wrong input.
# After SIGTERM it names the signal instead, when the ranks have written everything. Started again, the same command
# resumes.
set -euo pipefail
nodes=${NODES:-2} devices=${DEVICES:-1}

# SIGTERM to an agent is passed on to its ranks, which get 30 seconds to finish the batch under way.
exec torchrun --nnodes "$nodes" --nproc-per-node "$devices" --node-rank "${NODE_RANK:?number of this machine}" \
  --master-addr "${MASTER_ADDR:?name of the first machine}" --master-port "${MASTER_PORT:-29500}" \
  --no-python clip-surgery predict "$@" --nodes "$nodes" --devices "$devices"
