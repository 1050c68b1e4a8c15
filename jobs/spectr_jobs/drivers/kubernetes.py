"""A Kubernetes Indexed Job: one index per rank, replaced when it was interrupted, given up when it can never work."""

from __future__ import annotations

import json
from typing import Any

from spectr_jobs.drivers.submission import Submission

MARGIN = 20  # seconds between the end of the drain and the kill, for the last writes
RETRIES = 10
CONTAINER = "spectr"
# 2 and 42 can never work, 3 is finished with failed records: another try of any would end alike.
FINAL = [2, 3, 42]
INTERRUPTED = [75]


def manifest(job: Submission, *, image: str, claim: str, mount: str) -> str:
    """Return the Job as YAML.

    Args:
        job: What to run.
        image: Container image with spectr in it.
        claim: Volume claim that holds bundle, inputs and run directory.
        mount: Where the claim is mounted.
    """
    requests = {"cpu": str(job.cpus)} | ({"memory": job.memory} if job.memory else {})
    limits = {"nvidia.com/gpu": str(job.gpus)} if job.gpus else {}
    container = {
        "name": CONTAINER,
        "image": image,
        "command": list(job.command),
        "workingDir": mount,
        "env": [{"name": "SPECTR_WORLD", "value": str(job.ranks)}],
        "resources": {"requests": requests} | ({"limits": limits} if limits else {}),
        "volumeMounts": [{"name": "work", "mountPath": mount}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": round(job.drain_timeout) + MARGIN,
        "containers": [container],
        "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": claim}}],
    }
    spec = {
        "completions": job.ranks,
        "parallelism": job.ranks,
        "completionMode": "Indexed",
        "backoffLimitPerIndex": RETRIES,
        "podFailurePolicy": {"rules": [*map(_rule, ("FailIndex", "Ignore"), (FINAL, INTERRUPTED)), _DISRUPTED]},
        "template": {"spec": pod},
    }
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job.name}, "spec": spec}
    return "\n".join([_TITLE.format(name=job.name), *_yaml(whole)]) + "\n"


_TITLE = """\
# Decodes a run's shards with the pods of an Indexed Job. Written by `spectr-batch submit kubernetes`.
# The run directory remembers what is done: any pod may be evicted, and the job made again, also with another size.
# Look at it: kubectl get pods -l job-name={name}, kubectl logs -f job/{name}\
"""
_REASONS = {
    "completions": "One index per rank; each takes its part of the shards.",
    "backoffLimitPerIndex": "Failures of one index leave the others alone.",
    "podFailurePolicy": "2, 42: usage or input can never work; 3: done, some records failed; 75: interrupted, goes on.",
    "terminationGracePeriodSeconds": "Rows in flight are finished before the pod is killed.",
    "env": "The index is told by Kubernetes, how many there are is not.",
    "persistentVolumeClaim": "Bundle, inputs and run directory, for all pods: ReadWriteMany.",
}
_DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _rule(action: str, codes: list[int]) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes}}


def _yaml(value: Any, indent: str = "") -> list[str]:
    """Block style for mappings and lists of mappings, JSON (YAML too) for the rest; reasons above their keys."""
    lines: list[str] = []
    for key, item in value.items():
        if key in _REASONS:
            lines.append(f"{indent}# {_REASONS[key]}")
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_yaml(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{key}:")
            for one in item:
                first, *rest = _yaml(one, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
        else:
            lines.append(f"{indent}{key}: {json.dumps(item, ensure_ascii=False)}")
    return lines
