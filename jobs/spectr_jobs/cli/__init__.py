"""What the command line says.

    main      the command ``spectr-batch``, its short subcommands, errors as messages and exit codes
    run       ``spectr-batch run``: its parameters
    submit    ``spectr-batch submit``: jobs for Slurm, Kubernetes and Ray
    options   the values of ``run`` as one object, and types of parameters
    config    parameters from a TOML file

What a command does is imported when it is run, so that ``--help`` and a usage error answer at once.
"""
