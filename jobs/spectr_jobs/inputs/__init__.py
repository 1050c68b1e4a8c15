"""From the names on a command line to files, from files to numbered lines, and from lines to records.

expansion    names -> files, without the files of runs and hidden ones
sources      files -> lines; fingerprints, by which a changed file is noticed
form         whether a file is JSON Lines at all
stdin        standard input, kept in the run directory as a file
stores       files behind URLs, through fsspec
compression  compressed files as streams of bytes
tables       the rows of tables as lines: columns become fields, cells values
delimited    the rows of CSV and TSV files
parquet      the rows of Parquet files
reader       records one after another, from any position on
survey       the pass over all records before anything is decoded; cuts them into shards
"""
