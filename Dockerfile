# One image for every part of docker-compose.yml: the command says which part it is.
FROM python:3.11.13-slim-bookworm

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY nas nas
COPY workers workers
COPY search_spaces search_spaces
RUN pip install --no-cache-dir ".[postgresql,cluster]" && rm -rf /src

RUN useradd --create-home nas
USER nas
WORKDIR /home/nas
ENV RAY_USAGE_STATS_ENABLED=0
