"""What rounds need to be recorded once and replayed: memory that stays where it is, and the recorder.

The modules:

    transfer   numbers that go to the device and come back in one copy each
    recorder   work that is recorded as a CUDA graph, and replayed
    sizes      the few sizes to which batches and texts are padded
"""
