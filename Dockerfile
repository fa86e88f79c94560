# The project's services: `parcelwatch` with everything they need, as an unprivileged user; nothing of the extra `research`.
# `--build-arg PIP_EXTRA_INDEX_URL=...` names PyTorch's index of CPU builds where no GPU is used: 2 GB less.
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app
COPY requirements.lock pyproject.toml ./
# The dependencies first: a change of the code does not install them again. The lock holds the versions of development, too.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > wanted.txt \
    && pip install --constraint requirements.lock --requirement wanted.txt setuptools && rm wanted.txt

COPY README.md LICENSE parcelwatch.py ./
COPY db db
COPY devstack devstack
COPY ingest ingest
COPY migrations migrations
COPY models models
COPY monitor monitor
COPY research research
COPY terminal terminal
COPY training training
COPY web web
RUN pip install --no-deps --no-build-isolation --editable . && useradd --create-home parcelwatch

USER parcelwatch
ENTRYPOINT ["parcelwatch"]
CMD ["--help"]
