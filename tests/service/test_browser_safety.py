"""What a browser is told: security headers on every answer, and CORS for configured origins alone."""

from pathlib import Path

import httpx
import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from adaspa_service.gateway.headers import DEFAULTS
from running_gateway import Service, serving

ORIGIN = "https://app.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/static/main.js", "/models", "/videos/nothing", "/nowhere", "/healthz", "/openapi.json"]
)
def test_every_answer_has_the_security_headers(service: Service, path: str) -> None:
    headers = service.http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert "camera=()" in headers["permissions-policy"]
    assert "server" not in headers and "strict-transport-security" not in headers
    assert len(headers.get_list("content-security-policy")) == len(headers.get_list("cache-control")) == 1


def test_answers_about_jobs_are_not_cached_and_tls_is_kept(service: Service) -> None:
    over_tls = {"X-Forwarded-Proto": "https"}  # as a proxy on this machine says it
    answer = service.http.get("/videos", headers=over_tls)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["strict-transport-security"].startswith("max-age=")


def test_without_configured_origins_no_other_page_reads_anything(service: Service) -> None:
    answer = service.http.options("/videos", headers={"Origin": ORIGIN, **PREFLIGHT})
    assert answer.status_code == 405
    answer = service.http.get("/models", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_configured_origin_and_no_other_may_use_the_api(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"cors_origins": (ORIGIN,)}), tmp_path) as service:

        def allowed(answer: httpx.Response) -> str | None:
            return answer.headers.get("access-control-allow-origin")

        asked = service.http.options("/videos", headers={"Origin": ORIGIN, **PREFLIGHT})
        assert (asked.status_code, allowed(asked)) == (200, ORIGIN)
        assert "access-control-allow-credentials" not in asked.headers
        cross = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}
        refused = service.http.post("/videos", json={"prompt": ""}, headers=cross)
        assert (refused.status_code, allowed(refused)) == (400, ORIGIN), "a page can read why"
        assert "Retry-After" in refused.headers["access-control-expose-headers"]
        for other in ("https://evil.example", f"{ORIGIN}.evil.example", "http://app.example.com", "null"):
            assert allowed(service.http.options("/videos", headers={"Origin": other, **PREFLIGHT})) is None
            assert allowed(service.http.get("/models", headers={"Origin": other})) is None


FREE = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
"""Headers that a page may read anyhow, by the Fetch standard."""
NOT_FOR_PAGES = {"accept-ranges", "allow", "connection", "content-disposition", "date", "transfer-encoding", "vary"}
SENT = "authorization, content-type, idempotency-key, if-match, if-none-match, if-range, last-event-id, prefer, range"


@pytest.mark.asks
def test_a_page_may_send_and_read_every_header_of_the_api(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"cors_origins": (ORIGIN,)}), tmp_path) as service:
        _, token = service.parts.keys.create("page", frozenset({Scope.read, Scope.write}), requests_per_minute=8)
        own = {"Origin": ORIGIN, "Authorization": f"Bearer {token}"}
        for method in ("GET", "HEAD", "POST", "DELETE"):
            asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": SENT}
            assert service.http.options("/videos", headers={"Origin": ORIGIN, **asked}).status_code == 200, method
        once = {"Idempotency-Key": "one", "Prefer": "wait=0"}
        posts = [service.http.post("/videos", json={"prompt": "x"}, headers=own | once) for _ in range(2)]
        path = f"/videos/{posts[0].json()['id']}"
        answers = [*posts, service.http.get(path, headers=own)]
        service.complete(service.claim(posts[0].json()["id"]))
        asks: list[dict[str, str]] = [{}, {"Range": "bytes=0-1"}, {"Range": "bytes=99999999-"}, {"If-Match": '"other"'}]
        answers += [service.http.get(f"{path}/content", headers=own | more) for more in asks]
        answers += [service.http.get("/videos", headers=own) for _ in range(10)]  # more than it may
        answers.append(service.http.get("/videos", headers={"Origin": ORIGIN}))
        assert {answer.status_code for answer in answers} == {200, 206, 401, 412, 416, 429}
        exposed = answers[0].headers["access-control-expose-headers"].lower().split(", ")
        safety = {name.decode() for name in DEFAULTS}
        sent = {name for answer in answers for name in answer.headers if not name.startswith("access-control-")}
        assert sent - FREE - NOT_FOR_PAGES - safety == {*exposed}
