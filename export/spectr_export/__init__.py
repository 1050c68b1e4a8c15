"""Export turns a pair of causal language models of transformers into a bundle, and a bundle's graphs into engines.

How a build runs (``build``, after ``preparation``; ``rehearsal`` is the dry run)::

    checkpoint folder
      original/   configuration, tokenizer and weights, checked, each weight read when it is needed
      storing/    a storage plan for the model and its precision; one file of weights
      graph/      the model traced to ONNX, every weight left in that file
      checks/     the graph's logits, and the loss by the precision, compared with the original model
    bundle

``member`` leads one model through these wings, and ``staging`` lets the bundle appear whole or not at all. A finished
bundle can be inspected (``inspection``), its graphs compiled to TensorRT engines (``compiled``), and its rounds timed
on a machine (``calibrate``). ``cli`` is the command ``spectr-export``. At the bottom are ``weights`` (the format of the
weights' file), ``text`` (the text on which a build measures), ``console`` (what a person is shown) and ``process``
(how a build waits and cleans up).
"""
