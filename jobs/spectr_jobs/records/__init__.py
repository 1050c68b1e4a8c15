"""One line in, one row out; knows no files."""
