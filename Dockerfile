# The image for jobs on a GPU, with the commands spectr-batch and spectr-export.
#
#     docker build -t registry.example/spectr:0.1 .
#     docker run --rm --gpus all -v "$PWD:/work" registry.example/spectr:0.1 \
#         spectr-batch run bundle prompts.jsonl -o run --device cuda
#
# examples/kubernetes.yaml names this image; examples/apptainer/spectr-batch runs it in a Slurm job. Bundle, inputs and
# run directory are mounted at /work, where the user 10001 must be allowed to write.
#
# The versions are those of constraints.txt and, of packages that only the image has, of constraints-image.txt. PyPI
# serves torch, ONNX Runtime and TensorRT-RTX in these versions for CUDA 13. ONNX Runtime needs the libraries of the
# base image, because its package brings none; torch brings its own.
FROM nvidia/cuda:13.0.3-runtime-ubuntu24.04

ENV PATH=/opt/spectr/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/spectr \
    && useradd --uid 10001 --create-home spectr \
    && install --directory --owner=spectr --group=spectr /work

# What spectr depends on is a layer of its own, gigabytes large; a change of the sources leaves it as it is. pip learns
# the dependencies from the project's metadata, for which empty packages are enough.
WORKDIR /src
COPY pyproject.toml constraints.txt constraints-image.txt README.md LICENSE ./
RUN mkdir -p spectr_select runtime/spectr_runtime export/spectr_export jobs/spectr_jobs \
    && touch spectr_select/__init__.py \
    && pip install --constraint constraints-image.txt pip \
    && pip install --constraint constraints.txt --constraint constraints-image.txt \
        --build-constraint constraints-image.txt '.[gpu,parquet,remote,rtx,zstd]' \
    && pip uninstall --yes spectr

COPY spectr_select spectr_select
COPY runtime runtime
COPY export export
COPY jobs jobs
RUN pip install --build-constraint constraints-image.txt --no-deps . \
    && pip check \
    && python -c "import torch; assert torch.version.cuda, torch.__version__" \
    && python -c "import onnxruntime; assert 'CUDAExecutionProvider' in onnxruntime.get_available_providers()"

USER 10001
WORKDIR /work
CMD ["spectr-batch", "--help"]
