"""The command line: the parameters of every command, their help, and errors as messages and exit codes.

    main      the command ``spectr-batch``, its short subcommands, errors as messages and exit codes
    run       ``spectr-batch run``: its parameters
    submit    ``spectr-batch submit``: jobs for Slurm, Kubernetes and Ray
    options   the values of ``run`` as one object
    types     the types of its parameters
    config    options from a TOML file

The modules that do the work of a command are imported when the command runs, since some of them load torch. So
``--help`` and wrong usage answer at once; only a rule that does not exist, or does not go with K and L, takes longer.
"""
