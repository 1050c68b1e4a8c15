"""Records and rows: one line of input becomes a record, and the outcomes of its requests become a row. No files.

record    a line of input, read and checked, in one of two shapes
line      the JSON of a line, up to a limited depth
prompts   the prompts of a record: texts, token ids, conversations
template  what a record says to the chat template
fields    the sampling fields of a record: types, ranges, names
wanted    what a record asks for, apart from its prompts
names     names that are meant for a field, in other tools or another spelling
rows      the row of a record: a line of the output or the errors
logprobs  log-probabilities in the two forms of the API
tally     counts over rows
"""
