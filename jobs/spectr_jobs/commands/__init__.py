"""What every command does, once its command line is read.

job         a job: everything that the command line says of a run
run         from a job to the exit code: ``spectr-batch run`` and ``submit ray``
dry_run     what a run would read, need and last
pilot       the speed of a run, measured on some of its completions
verify      one row for every record, and nothing altered
replay      one record decoded again, and compared with its row
audit       a test of the law that the rows follow: draws a sample, has it scored, shows the figures
evidence    the audit's numbers: one for each written token
uniformity  the test of these numbers
"""
