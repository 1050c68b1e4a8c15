"""A Kubernetes Indexed Job with one index per rank: interrupted pods are replaced, hopeless ones are not."""

from __future__ import annotations

import json
from typing import Any

from spectr_jobs.queues.submission import Submission, require
from spectr_runtime.errors import UsageError

MARGIN = 20  # seconds between the end of the drain and the kill, for the last writes
RETRIES = 10  # failures of one index until it is given up
CONTAINER = "spectr"
LONGEST_LABEL = 63  # characters of a pod's name
MOST_RANKS = 100_000  # indices of a job with a limit of failures per index
# Exit codes with which another try would end alike: wrong usage, finished with failed records, unusable input, an input
# that was changed.
FINAL = [2, 3, 42, 65]
INTERRUPTED = [75]


def manifest(job: Submission, *, image: str, claim: str, mount: str) -> str:
    """Return the Job as YAML.

    Args:
        job: The command, and the resources of a rank.
        image: Container image with spectr in it.
        claim: Volume claim that holds bundle, inputs and run directory.
        mount: Path of the volume in the container, and the command's working directory.

    Raises:
        UsageError: Kubernetes would not take a value.
    """
    _check(job, image, claim, mount)
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


def _check(job: Submission, image: str, claim: str, mount: str) -> None:
    """Check values by the rules of the API: names by RFC 1123, amounts as quantities, volumes by absolute paths."""
    longest = LONGEST_LABEL - len(f"-{job.ranks - 1}")  # a pod is called by the job's name and its index
    name = rf"(?=.{{1,{longest}}}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    require("--name", job.name, name, f"up to {longest} small letters, digits and -, first and last no -")
    require("--memory", job.memory, r"\d+(\.\d+)?([KMGTPE]i|[kMGTPE])?", "an amount such as 64Gi or 64G")
    require("--claim", claim, r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "the name of a volume claim")
    require("--image", image, r"[^\s]+", "the name of an image")
    require("--mount", mount, r"/[^:]*", "an absolute path without a colon")
    if job.ranks > MOST_RANKS:
        raise UsageError(f"--ranks is {job.ranks}; allowed are up to {MOST_RANKS} indices of a job.")


_TITLE = """\
# Decodes a run's shards with the pods of an Indexed Job. Written by `spectr-batch submit kubernetes`.
# The run directory remembers what is done: any pod may be evicted, and the job created again, also with another size.
# Watch it with: kubectl get pods -l job-name={name}, kubectl logs -f job/{name}\
"""
_REASONS = {
    "completions": "One index per rank; each decodes its part of the shards.",
    "backoffLimitPerIndex": "Failures of one index do not end the others.",
    "podFailurePolicy": "2, 42, 65: unusable command or input; 3: done, some records failed; 75: interrupted, again.",
    "terminationGracePeriodSeconds": "Time to finish the rows in flight before the pod is killed.",
    "env": "Kubernetes tells a pod its index, but not the number of indices.",
    "persistentVolumeClaim": "Bundle, inputs and run directory. All pods share the volume: it must be ReadWriteMany.",
}
_DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _rule(action: str, codes: list[int]) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes}}


def _yaml(value: Any, indent: str = "") -> list[str]:
    """Return a mapping as lines of YAML, with the reason for a key as a comment above it.

    Mappings and lists of mappings are written in block style. Everything else is written as JSON, which is YAML too.
    """
    lines: list[str] = []
    for key, item in value.items():
        if key in _REASONS:
            lines.append(f"{indent}# {_REASONS[key]}")
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_yaml(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{key}:")
            for element in item:
                first, *rest = _yaml(element, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
        else:
            lines.append(f"{indent}{key}: {json.dumps(item, ensure_ascii=False)}")
    return lines
