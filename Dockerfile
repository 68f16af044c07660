# The server and the line client in one image. What runs is not root, and needs no write access but /data,
# /certs and /state. No health check here: an older Engine refuses parts of it; docker-compose.yml has one.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
ENV PIP_CACHE_DIR=/pipcache
# The pinned packages are a layer of their own: a change of the code does not install them again.
COPY requirements.lock ./
RUN --mount=type=cache,target=/pipcache python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY quicmsg ./quicmsg
RUN --mount=type=cache,target=/pipcache pip --python /opt/venv/bin/python install --no-deps --no-build-isolation .

FROM python:${PYTHON_VERSION}-slim
# Two users: a client in a container may read the server's ca.pem in /certs, but not the keys beside it.
# A new volume takes owner and mode from these directories.
RUN groupadd -g 10001 quicmsg && useradd -u 10001 -g quicmsg -M -s /usr/sbin/nologin quicmsg \
    && groupadd -g 10002 client && useradd -u 10002 -g client -M -s /usr/sbin/nologin client \
    && install -d -o quicmsg -g quicmsg -m 0700 /data \
    && install -d -o quicmsg -g quicmsg -m 0755 /certs \
    && install -d -o client -g client -m 0700 /state
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 4433/udp
ENTRYPOINT ["quicmsg"]
CMD ["serve", "--listen", "0.0.0.0:4433", "--data", "/data", "--certs", "/certs"]
