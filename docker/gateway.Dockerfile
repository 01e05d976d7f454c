# The gateway: no torch, no model.
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY worker worker
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt ./service/client '.[service,tracing]'

FROM python:3.11.13-slim-bookworm
COPY --from=build /venv /venv
# Writes nothing but below /tmp: runs on a read-only root file system.
USER 10001:10001
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH HOME=/tmp ADASPA_HOST=::
EXPOSE 8000 9100
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "adaspa_service.gateway"]
