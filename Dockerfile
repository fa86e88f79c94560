# The project's services: `parcelwatch` with everything it needs, as an unprivileged user.
# `--build-arg PIP_EXTRA_INDEX_URL=...` names PyTorch's index of CPU builds where no GPU is used: 2 GB less.
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app
COPY requirements.lock ./
RUN pip install -r requirements.lock

COPY pyproject.toml README.md LICENSE parcelwatch.py ./
COPY db db
COPY ingest ingest
COPY migrations migrations
COPY models models
COPY monitor monitor
COPY seasons seasons
COPY experiments experiments
RUN pip install --no-deps --no-build-isolation --editable . && useradd --create-home parcelwatch

USER parcelwatch
ENTRYPOINT ["parcelwatch"]
CMD ["--help"]
