"""One process at work on a run: what it decodes and how, what it counts and shows, and when it stops.

setup     how rows are decoded: plan, batch size, backend, device
models    decoder, scorer and tokenizer of a bundle, opened for a setup
worker    the one path from records through the decoder into shards
watcher   rows whose rounds are kept
session   the counts, the clock and the events of the process
progress  the progress line on stderr
stop      signals and time limits
"""
