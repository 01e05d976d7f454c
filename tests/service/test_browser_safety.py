"""What a browser is told: security headers on every answer, and CORS for configured origins alone."""

from pathlib import Path

import httpx
import pytest
from adaspa_jobs.settings import Settings
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
