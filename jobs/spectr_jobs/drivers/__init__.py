"""Who decodes a run's shards: this process, alone or as one of several ranks, or the actors of a Ray cluster.

All of them take one path, ``spectr_jobs.drivers.steps``; what makes a run durable lies below it, in the shards.
"""
