"""Files of prompts in, files of completions out: the command ``spectr-batch``. This part knows no tensors.

How the data of ``spectr-batch run`` travel:

    command line -> RunOptions -> Job                             cli, commands
    start(job, driver, stop):                                     commands.run
        inputs -> Survey -> RunManifest, in a run directory       inputs, run_directory
        Driver -> Worker, which decodes the shards left to it     drivers, work
        merged files and the summary, once all shards are sealed  run_directory, report

    Worker: lines -> records -> requests -> decoder -> outcomes -> rows -> journal of the shard -> seal

The decoder is the runtime's: a function from requests to outcomes. A wing imports only those below it in this list, and
``work`` and ``report`` do not import each other:

    cli             the command line: parameters, help, exit codes
    commands        what every command does
    queues          files that start a run on the machines of Slurm or Kubernetes
    drivers         who decodes the shards: this process, a rank, the actors of a Ray cluster
    work            one process at work on a run
    report          what a run looks like afterwards
    run_directory   everything that a run keeps on disk
    inputs          names of files -> numbered lines -> records
    records         a line of input -> a record, outcomes -> a row; knows no files
    console, clock, errors, extras
"""
