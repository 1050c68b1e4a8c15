"""Names of the files and folders in a run directory.

    RUN/lock                                     held by a process that changes what all share
    RUN/manifest.json                            what fixes every row: inputs, bundle, seed, sampling defaults, shards
    RUN/shards/00012/{output,errors}.jsonl       journals while the shard is decoded; in input order once it is sealed,
                                                 then with --compress as .jsonl.zst, like the merged files
    RUN/shards/00012/sealed.json                 the shard's counts and hashes, written when the shard is sealed
    RUN/shards/00012/lock                        held by the process that decodes the shard
    RUN/sessions/*.jsonl                         events, one file per process
    RUN/output.jsonl, errors.jsonl, events.jsonl everything, merged; rows in input order, events by time
    RUN/summary.json, audit.json, report.html    what the commands tell of the run

The shards are the truth; what is merged from them can be made again at any time.
"""

from __future__ import annotations

LOCK = "lock"
MANIFEST = "manifest.json"
SHARDS = "shards"
SEAL = "sealed.json"
SESSIONS = "sessions"
OUTPUT = "output.jsonl"
ERRORS = "errors.jsonl"
PARTS = (OUTPUT, ERRORS)
PACKED = ".zst"  # what the name of a compressed part ends in
EVENTS = "events.jsonl"
SUMMARY = "summary.json"
AUDIT = "audit.json"
REPORT = "report.html"
