"""Names of the files and folders in a run directory.

    RUN/lock                                     locked by a process that writes files which all processes share
    RUN/manifest.json                            what fixes every row: inputs, bundle, seed, sampling defaults, shards
    RUN/stdin.jsonl, pipe-1.jsonl                standard input and pipes, if they are inputs; or .csv, .parquet
    RUN/urls.json                                URLs of inputs with what gives access in them, for their owner alone
    RUN/shards/00012/{output,errors}.jsonl       journals while the shard is decoded; in input order once it is sealed,
                                                 then with --compress as .jsonl.zst, like the merged files
    RUN/shards/00012/sealed.json                 the shard's counts and hashes, written when the shard is sealed
    RUN/shards/00012/lock                        locked by the process that decodes the shard
    RUN/shards/00012/claim.N                     the same process, for processes of other machines; see ``claim``
    RUN/sessions/*.jsonl                         events, one file per process, with the rounds of a few rows
    RUN/output.jsonl, errors.jsonl               the rows of all shards, in input order, once all are sealed
    RUN/events.jsonl                             the events of all sessions, by time
    RUN/summary.json, audit.json, report.html    written by the commands run, audit and report

The files of the shards decide what is done. The merged files are copies, and can be made again at any time.
"""

from __future__ import annotations

LOCK = "lock"
CLAIM = "claim"
MANIFEST = "manifest.json"
SHARDS = "shards"
SEAL = "sealed.json"
SESSIONS = "sessions"
OUTPUT = "output.jsonl"
ERRORS = "errors.jsonl"
PARTS = (OUTPUT, ERRORS)
PACKED = ".zst"  # added to the name of a part when it is compressed
EVENTS = "events.jsonl"
STDIN = "stdin.jsonl"
URLS = "urls.json"
SUMMARY = "summary.json"
AUDIT = "audit.json"
REPORT = "report.html"
