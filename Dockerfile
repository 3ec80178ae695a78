# One image for the server and the workers. Build: docker build -t ls-backend .
# `docker run -p 9090:9090 -v ls-backend:/data ls-backend` runs everything in one container, an embedded Redis included;
# docker-compose.yml runs the parts apart.
FROM python:3.11-slim

# More arguments for pip, for example another package index for a smaller PyTorch:
# docker build --build-arg PIP_ARGS="--extra-index-url <your index>" .
ARG PIP_ARGS=""
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DATA_DIR=/data WEIGHTS_DIR=/app/model_weights

RUN useradd --uid 1000 --create-home backend && install -d -o backend -g backend /data /app
WORKDIR /app

# Dependencies first: this layer, gigabytes with CUDA, stays cached when only our code changes.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = p['optional-dependencies']; \
    print(*p['dependencies'], *extras['postgres'], *extras['ml'], sep='\n')" > /tmp/requirements.txt \
    && pip install ${PIP_ARGS} -c constraints.txt -r /tmp/requirements.txt \
    && pip install ${PIP_ARGS} -c constraints.txt --no-deps label-studio-ml

COPY README.md LICENSE ./
COPY ls_backend ls_backend
RUN pip install --no-deps . && install -d -o backend -g backend model_weights

USER backend
VOLUME /data
EXPOSE 9090

# Any answer below 500 is a living server: with BASIC_AUTH_USER set, it answers 401 here. Workers override this.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 CMD ["python", "-c", "\
import http.client, os; \
connection = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 9090), timeout=4); \
connection.request('GET', '/health'); \
raise SystemExit(connection.getresponse().status >= 500)"]

ENTRYPOINT ["ls-backend"]
CMD ["start"]
