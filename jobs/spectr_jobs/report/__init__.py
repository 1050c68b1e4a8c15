"""What a run looks like afterwards, or so far: figures, charts and a page.

summary   ``summary.json``, and the same figures as a table on stderr
timeline  rates and plans over the time of the run, from the events of its sessions
drafts    some rows with the drafts that were kept
charts    charts as inline SVG
page      ``report.html``
outlet    into the run directory, into another file, or to stdout
"""
