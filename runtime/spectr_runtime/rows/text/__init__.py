"""Between text and tokens: prompts, chat templates, completions and stop texts.

The modules:

    tokenizer      text to tokens and back
    span           how much text a token stands for at most
    chat_template  conversations written out as prompts
    detokenizer    tokens to text, all at once and bit by bit
    stop_text      stop texts in the text so far
"""
