"""Everything that a run keeps on disk, and what makes it durable.

layout      names of the files and folders
directory   the run directory: paths, counts, the merge of sealed shards
manifest    what fixes the rows of a run: inputs, bundle, seed, sampling defaults, shards
paths       how paths are stored, so that a run can be moved together with its inputs
shard       a fixed stretch of records: its rows so far, and how it is sealed
journal     an append-only file of lines that survives a kill at any instant
seal        the counts and hashes of a complete shard
lock        a lock that cannot outlive its process
sessions    the events of every process that worked on the run
provenance  versions and machine; whether inputs and bundle are unchanged
mirror      a copy of the run in an object store
"""
