"""What goes into the decoder and comes out of it, and the state of a request while it is in the batch.

The modules:

    request    requests with their sampling parameters, completions and failures
    drafting   the sources of drafts by name, what a request may ask of them, what they did
    rounds     what a round did for one row, for whoever watches it
    ranges     the values that sampling parameters may take
    tokens     the check of token ids against the vocabulary
    text/      between text and tokens: the tokenizer, chat templates, stop texts
    admission  from a request to a row
    row        one row of the batch: its text so far, and when it ends
    scheduler  which rows of the batch are free
    score      completions that are to be scored, and their scores

Nothing here runs a model.
"""
