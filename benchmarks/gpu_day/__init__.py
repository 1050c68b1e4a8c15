"""The parts of ``gpu.py``: everything that is measured in a quarter of an hour on a GPU.

The modules, each built on those above it:

    day         what is measured: sizes of targets, plans, rows, amounts
    record      the result file, written at once whenever something is known
    device      clocks, the bandwidth of memory, how long a GPU is busy
    padded      a pair with a padded target, made in the device's memory
    rounds      rounds of a full batch, watched while they are decoded
    suite       part a: the tests that need a GPU
    decoding    part b: plans beside plain decoding
    texts       part c: rows whose text depends on shapes
    selecting   part d: selection against the bandwidth
    engines     part e: ONNX Runtime with CUDA, and TensorRT-RTX
    goals       what was hoped for, beside what was found
    predict     the same figures without a GPU
    page        part f: one page of a result file

``python -m gpu_day PART RESULT DAY`` runs one of them; ``gpu.py`` does that, each in a process of its own.
"""
