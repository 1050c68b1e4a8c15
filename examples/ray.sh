#!/bin/sh
# Decodes a run's shards with eight actors of the Ray cluster that this machine is part of, each with a GPU.
# Start it on any machine of the cluster: sh examples/ray.sh
# All machines must see the bundle, the inputs and the run directory under the same paths. It stays until the actors have
# ended, replaces those that are lost, and ends with the exit codes of `spectr-batch run`; started again, it goes on.
exec spectr-batch submit ray --address auto --ranks 8 --gpus 1 --cpus 8 \
    -- build/demo/bundle examples/prompts.jsonl -o build/demo/run --device cuda
