import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from services import standin_at
from standin import sent, with_key

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    ("POST", "/decisions"),
    ("POST", "/cases/{id}/review"),
    ("POST", "/cases/{id}/told"),
    *(("GET", f"/{path}") for path in ("cases", "cases.csv", "health", "model", "metrics")),
    *(("GET", f"/{path}") for path in ("calibration", "drift", "audit", "audit.csv")),
    *(("GET", f"/{path}") for path in ("found-wrong", "found-wrong.csv")),
    *(("GET", f"/cases/{{id}}{part}") for part in ("", "/thumbnail", "/image")),
]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """The description of a service, and one of its cases."""
    place = tmp_path_factory.mktemp("described") / "cases.sqlite"
    with standin_at(str(place)) as (_, client):
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json"), sent(client)


def strategy_of(operation, known):
    """Valid and invalid requests, half of them about an existing case."""

    def about(case, there_is):
        if there_is and "id" in case.path_parameters:
            case.path_parameters["id"] = known["id"]
        return case

    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    kinds = [operation.as_strategy(generation_mode=mode) for mode in modes]
    return st.builds(about, st.one_of(kinds), st.booleans())


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("examples", [5, pytest.param(300, marks=pytest.mark.soak, id="many")])
def test_every_response_fits_the_description(described, method, path, examples):
    schema, known = described
    operation = schema[path][method]

    @given(case=strategy_of(operation, known))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def hold(case):
        case.call_and_validate(checks=CHECKS, timeout=60)

    hold()


def test_every_operation_is_documented_with_its_need_of_a_key(serving, sqlite_place):
    client, key = serving(), with_key(sqlite_place, "metrics")
    described = client.get("/openapi.json", headers=key).json()
    operations = [
        (m.upper(), path) for path, methods in described["paths"].items() for m in methods
    ]
    assert sorted(operations) == sorted(OPERATIONS)
    for method, path in OPERATIONS:
        operation = described["paths"][path][method.lower()]
        assert list(operation["responses"]["403"]["content"]) == ["application/problem+json"]
        needs_key = client.request(method, path.replace("{id}", "0" * 32)).status_code == 401
        assert needs_key == ("401" in operation["responses"]) == (path != "/health")
        security = [{"bearer": []}, {"session": []}] if needs_key else []
        assert operation.get("security", []) == security
