"""What is written to the log, whoever writes it."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from ls_backend import logs
from ls_backend.settings import Settings

TOKEN = "0123456789abcdef0123456789abcdef01234567"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJlLW9mLXRoaXM"


@pytest.fixture
def lines(tmp_path):
    """The log of a process with a secret of each kind, line by line."""
    before = logging.getLogger().handlers[:]
    settings = Settings(
        data_dir=tmp_path,
        log_json=True,
        label_studio_api_key="operators-own-key",
        redis_url="redis://:redis-password@127.0.0.1:1/0",
        basic_auth_user="u",
        basic_auth_pass="basic-password",
    )
    logs.configure(settings, process="test")
    written = io.StringIO()
    (handler,) = logging.getLogger().handlers
    handler.setStream(written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    logging.getLogger().handlers[:] = before
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


PLANTED = {
    "a word of a message": f"refused Token {TOKEN}",
    "a header": f"Authorization: Bearer {TOKEN}",
    "basic authentication": "sent Basic dXNlcjpwYXNzd29yZDEyMzQ1Njc4OTA=",
    "a query string": f"GET /api/tasks?access_token={TOKEN}&page=1 failed",
    "a signed address": f"https://bucket.s3.example/image.png?X-Amz-Signature={TOKEN}&X-Amz-Expires=3600",
    "a password in an address": f"postgresql://user:{TOKEN}@database/name",
    "a personal access token": f"refresh with {JWT} failed",
    "JSON": json.dumps({"project": {"id": 7, "token": TOKEN}}),
    "a Python dict": str({"secret": TOKEN}),
    "a key of ours": "the key operators-own-key is refused",
    "the address of Redis": "no answer from redis://:redis-password@127.0.0.1:1/0",
}
SECRETS = [TOKEN, JWT, "dXNlcjpwYXNzd29yZDEyMzQ1Njc4OTA=", "operators-own-key", "redis-password"]


@pytest.mark.parametrize("text", PLANTED.values(), ids=PLANTED.keys())
@pytest.mark.parametrize("way", ["event", "value", "other package", "traceback", "nested"])
def test_a_planted_secret_is_in_no_line(lines, text, way):
    log = logs.get("test")
    if way == "event":
        log.warning(text)
    elif way == "value":
        log.warning("refused", reason=text)
    elif way == "other package":
        logging.getLogger("somebody.else").warning("failed: %s", text)
    elif way == "nested":
        log.warning("refused", about={"tries": [{"said": text}]})
    else:
        log.error("failed", exc_info=ValueError(text))
    (line,) = lines()
    written = json.dumps(line)
    assert logs.MASK in written
    assert [secret for secret in SECRETS if secret in written] == []


@pytest.mark.parametrize(
    "name",
    ["token", "access_token", "api_key", "Authorization", "webhook_secret", "password", "X-LSB-Secret", "cookie"],
)
def test_a_value_under_a_secret_name_is_masked_whatever_it_looks_like(lines, name):
    logs.get("test").warning("sent", **{"headers": {name: "plain words"}, name.replace("-", "_"): "plain words"})
    (line,) = lines()
    assert "plain words" not in json.dumps(line)


def test_what_is_no_secret_stays_as_it_is(lines):
    about = {
        "project": 7,
        "task": 12,
        "job": "update-7-a",
        "kind": "update",
        "window": "al-12-3fa9c1d2:40",
        "rank_s": 0.25,
    }
    logs.get("test").info("updated http://label-studio:8080/api/projects/7/?page=2 basic plan, token refused", **about)
    (line,) = lines()
    assert about.items() <= line.items()
    assert line["event"] == "updated http://label-studio:8080/api/projects/7/?page=2 basic plan, token refused"
    assert line["process"] == "test"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")
