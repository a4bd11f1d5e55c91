# asrcompress on PaddlePaddle's official GPU image. Written, not built or run by us: see README.md.
#     docker build -f docker/gpu.Dockerfile -t asrcompress:gpu .
#     docker run --rm --gpus all -v "$PWD/my-experiment:/work" asrcompress:gpu \
#         qat --target int8 --device gpu:0
FROM paddlepaddle/paddle:2.6.2-gpu-cuda11.7-cudnn8.4-trt8.4

WORKDIR /opt/asrcompress
COPY requirements-lock.txt ./
# The lock file's CPU builds are taken out; their GPU twins install the same modules.
RUN python3 -m venv /opt/venv \
    && grep -v -E '^(paddlepaddle|onnxruntime)==' requirements-lock.txt > requirements-gpu.txt \
    && /opt/venv/bin/python -m pip install --no-cache-dir -r requirements-gpu.txt \
        paddlepaddle-gpu==2.6.2 onnxruntime-gpu==1.23.2
COPY . .
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

WORKDIR /work
ENTRYPOINT ["/opt/venv/bin/asrcompress"]
