# The gateway on a small Debian, as a user without rights, with a health check.
#
#   docker build -t sluice .
#   docker run -p 8000:8000 -p 8001:8001 -v $PWD/models:/models:ro sluice
#
# `make image` builds the same file without a Docker engine.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends \
      ca-certificates g++ cmake ninja-build pkg-config libnghttp2-dev libsimdjson-dev zlib1g-dev python3 python3-dev python3-venv \
      >/dev/null
RUN python3 -m venv /opt/sluice
WORKDIR /src
COPY pyproject.toml README.md ./
COPY kernels kernels
COPY registry registry
COPY gateway gateway
# What a registry shared between gateways needs; docker build --build-arg EXTRAS=gpu for another choice.
ARG EXTRAS=objects,postgresql
RUN /opt/sluice/bin/pip install --quiet --no-cache-dir --disable-pip-version-check ".[$EXTRAS]" \
 && /opt/sluice/bin/pip uninstall --quiet --yes pip setuptools \
 && find /opt/sluice -depth -type d \( -name __pycache__ -o -name tests -o -name test \) -exec rm -rf {} + \
 && /opt/sluice/bin/python -m compileall -q -j 0 /opt/sluice/lib

FROM ${BASE}
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 libnghttp2-14 libsimdjson14 >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /usr/share/doc /usr/share/man \
 && useradd --uid 10001 --create-home --home-dir /var/lib/sluice sluice \
 && install -d -o sluice /models
COPY --from=build /opt/sluice /opt/sluice
ENV PATH=/opt/sluice/bin:$PATH \
    SLUICE_HOST=0.0.0.0 \
    SLUICE_MODEL_REPOSITORY=/models \
    SLUICE_DATA_DIR=/var/lib/sluice
# An image that could not start is not made.
RUN sluice --version && python3 -c 'import gateway.server, onnxruntime'
USER 10001
WORKDIR /var/lib/sluice
EXPOSE 8000 8001 8002
# The admin plane answers probes on loopback; it opens to other hosts only with a token (admin.host, admin.token_file).
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8002/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluice"]
CMD ["serve"]
