"""From the names on a command line to files, from files to numbered lines, and from lines to records.

expansion    names -> files, without the files of runs and hidden ones
sources      files -> lines; fingerprints, by which a changed file is noticed
form         whether a file is JSON Lines at all
stdin        standard input, kept in the run directory as a file
stores       files behind URLs, through fsspec
compression  compressed files as streams of bytes
tables       the rows of Parquet and CSV files as lines
reader       records one after another, from any position on
survey       the pass over all records before anything is decoded; cuts them into shards
"""
