"""Requests drawn from the whole OpenAPI document: no server error, and no answer that the document does not name.

A longer search: ``pytest tests/service/test_fuzz.py --hypothesis-profile=long``.
"""

from collections.abc import Callable

import pytest
import schemathesis
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from running_gateway import Service
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from waiting import PATIENCE

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
"""Not among them: that whatever fits the schema is accepted, because the catalog says more than the schema can."""
SHARE = 4
"""Examples of one operation are as many as a test's, over this: there are some twenty operations."""


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_as_documented(service: Service, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    for operation in (found.ok() for found in schema.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and not [*operation.iter_parameters(), *operation.body]:
            continue  # a request that has nothing cannot have anything wrong
        print(operation.label)
        search(service, operation.as_strategy(generation_mode=mode))()


def search(service: Service, cases: st.SearchStrategy[Case]) -> Callable[[], None]:
    """Tries the cases, now and then with the id of a video that is there: queued, or completed."""

    @given(case=cases, video=st.sampled_from(["unknown", "queued", "completed"]))
    @limits(max_examples=max(1, limits().max_examples // SHARE))
    def check(case: Case, video: str) -> None:
        if "video_id" in case.path_parameters and video != "unknown":
            waits = video == "queued" and not case.operation.path.endswith("/events")  # whose answer would not end
            case.path_parameters["video_id"] = service.create()["id"] if waits else service.completed()
        case.call_and_validate(checks=CHECKS, timeout=PATIENCE)

    return check
