"""From the names on a command line to files, from files to numbered lines, and from lines to records.

sources      names -> files -> lines; fingerprints, by which a changed file is noticed
stdin        standard input, kept in the run directory as a file
stores       files behind URLs, through fsspec
compression  compressed files as streams of bytes
tables       the rows of Parquet and CSV files as lines
reader       records one after another, from any position on
survey       the pass over all records before anything is decoded; cuts them into shards
"""
