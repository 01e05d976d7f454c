# The worker. On a machine with an NVIDIA GPU the torch wheel brings its own CUDA libraries.
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY kernels kernels
COPY service service
COPY worker worker
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[worker]'

FROM python:3.11.13-slim-bookworm
# Triton compiles a small launcher with the system's C compiler.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build /venv /venv
USER 10001:10001
ENV PATH=/venv/bin:$PATH HOME=/tmp TRITON_CACHE_DIR=/tmp/triton
ENTRYPOINT ["python", "-m", "adaspa_worker"]
