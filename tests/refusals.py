"""What every refusal of the gateway has in common."""

from typing import Any

from running_gateway import Service


def check_refused(service: Service, response: Any, status: int, param: str | None, allowed: str = "") -> None:
    """The error shape, the field, what is allowed; and no trace in store and queue."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["code"] and allowed in error["message"] and len(error["message"]) < 600
    keys: Any = service.store.client.keys("*")
    janitors = (b"adaspa:swept_at", b"adaspa:skipped")
    left = [key for key in keys if not key.startswith(b"_kombu") and key not in janitors]
    assert left == [], left
