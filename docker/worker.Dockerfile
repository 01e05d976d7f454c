# The worker for NVIDIA GPUs: the torch wheel brings its own CUDA libraries, the host its driver. For a CPU:
#   docker build -f docker/worker.Dockerfile --build-arg TORCH_INDEX=URL_OF_THE_CPU_WHEELS .
# A model of the hub can be put into the image: --build-arg MODEL=owner/name
FROM python:3.11.13-slim-bookworm AS build
ARG TORCH_INDEX=""
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY service service
COPY worker worker
COPY demo_model demo_model
RUN /venv/bin/pip install --no-cache-dir -c constraints.txt ./kernels ./service/client ./demo_model '.[worker,tracing]'
ARG MODEL=""
ENV HF_HOME=/models
RUN mkdir -p "$HF_HOME" && if [ -n "$MODEL" ]; then /venv/bin/python -m adaspa_worker.fetch_model --source "$MODEL"; fi

FROM python:3.11.13-slim-bookworm
# Triton compiles a small launcher with the system's C compiler, torch.compile on a CPU its kernels with the C++ one.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build /venv /venv
COPY --from=build --chown=10001:10001 /models /models
RUN install -d -o 10001 -g 10001 /kernels
# Writes nothing but below /tmp and /kernels, and below /models when a model is fetched: runs on a read-only root file
# system.
USER 10001:10001
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH HOME=/tmp HF_HOME=/models ADASPA_KERNEL_CACHE=/kernels ADASPA_HEARTBEAT_FILE=/tmp/heartbeat
EXPOSE 9100
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m --retries=8 CMD ["python", "-m", "adaspa_worker.heartbeat", "--max-age", "60"]
ENTRYPOINT ["python", "-m", "adaspa_worker"]
