"""The files that start a run on the machines of a queue. Nothing here decodes: the queue starts ``spectr-batch run``.

submission  a run's command as a queue starts it, once for every rank
slurm       a submission as a Slurm array
kubernetes  a submission as a Kubernetes Indexed Job
"""
