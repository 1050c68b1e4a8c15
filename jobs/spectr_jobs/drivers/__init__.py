"""Who decodes a run's shards: this process, alone or as one of several ranks, or the actors of a Ray cluster.

Every driver decodes through ``spectr_jobs.work.worker``. The shards make a run durable, whoever decodes them, so that
every driver can continue the run of another.

    driver      what a run needs of a driver
    shards      what every driver does before and after decoding
    local       the driver that decodes in this process
    rank        which shards this process takes, from its options or from a scheduler's variables
    ray         the driver that decodes with the actors of a Ray cluster
    team        these actors, and new actors for lost ones
    actor       one actor: it takes shards from the desk and decodes them
    desk        hands shards out to the actors and adds up their counts
"""
