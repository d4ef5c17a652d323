# syntax=docker/dockerfile:1
# The serving image: ONNX Runtime alone, neither torch nor ray.
#
#   docker build --tag cascade-serve .
#   docker run --publish 8001:8001 --publish 8002:8002 --volume "$PWD/repository:/models:ro" cascade-serve
#
#   docker build --tag cascade-serve:gpu --build-arg VARIANT=gpu .
#   docker run --gpus all --publish 8001:8001 --volume "$PWD/repository:/models:ro" cascade-serve:gpu --device cuda
ARG VARIANT=cpu

FROM python:3.12-slim-bookworm AS base-cpu

# The locked onnxruntime-gpu is built for CUDA 13.0 and cuDNN 9; any 13.x driver or later runs it.
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS base-gpu
RUN apt-get update \
    && apt-get install --no-install-recommends --yes python3=3.12.* python3-venv=3.12.* \
    && rm -rf /var/lib/apt/lists/*

# The tags stand with base-cpu and base-gpu above.
# hadolint ignore=DL3006
FROM base-${VARIANT} AS build
ARG VARIANT
WORKDIR /src
RUN python3 -m venv /opt/venv
# Requirements change less often than code, so they are a layer of their own.
COPY requirements/serve-${VARIANT}.txt requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY cascade_serve cascade_serve
COPY model_zoo model_zoo
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install --no-deps .

# hadolint ignore=DL3006
FROM base-${VARIANT} AS runtime
LABEL org.opencontainers.image.title="cascade-serve" \
      org.opencontainers.image.description="Early-exit cascades over gRPC, with the caller's own threshold and FLOP cap" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 cascade \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin cascade \
    && mkdir /models
COPY --from=build /opt/venv /opt/venv
ENV PATH="/opt/venv/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /
# gRPC, and Prometheus metrics.
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["cascade-serve", "health", "--url", "127.0.0.1:8001"]
ENTRYPOINT ["cascade-serve", "serve", "/models", "--host", "0.0.0.0"]
