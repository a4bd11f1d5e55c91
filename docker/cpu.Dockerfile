# asrcompress on PaddlePaddle's official CPU image. Written, not built or run by us: see README.md.
#     docker build -f docker/cpu.Dockerfile -t asrcompress:cpu .
#     docker run --rm -v "$PWD/my-experiment:/work" asrcompress:cpu qat --target int8
FROM paddlepaddle/paddle:2.6.2

WORKDIR /opt/asrcompress
# Dependencies first: they change less often than the code, and take most of the time.
COPY requirements-lock.txt ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir -r requirements-lock.txt
COPY . .
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/venv/bin/asrcompress doctor

WORKDIR /work
ENTRYPOINT ["/opt/venv/bin/asrcompress"]
