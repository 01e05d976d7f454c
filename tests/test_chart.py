"""The Helm chart: rendered by Helm itself, checked against Kubernetes' schemas, its commands run for real."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest
import yaml
from adaspa_service.contract.settings import Settings
from adaspa_service.gateway.metrics import make_registry
from adaspa_worker import metrics as worker_metrics
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from rendered_chart import CHART, container, one, pods, render
from running_gateway import Service, serving

FILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "values").glob("*.yaml"))}
TWO_MODELS = [{"id": name, "replicas": 1, "resources": {}} for name in ("wan2.1-1.3b", "demo")]
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    **FILES,
    "two-models": {"models": TWO_MODELS, "catalog": "[]"},
    "route": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example.com"]}},
    "open": {"access": {"open": True}},
    "guarded": {"networkPolicy": {"enabled": True}, "imagePullSecrets": [{"name": "pull"}]},
    "own-account": {"serviceAccount": {"create": False, "name": "mine"}},
}
CUSTOM = {"ScaledObject", "ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}
STANDARD_VARIABLES = {
    "HOME",
    "HF_HOME",
    "TRITON_CACHE_DIR",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "ADASPA_API_KEY",
    "FORWARDED_ALLOW_IPS",
}
SECRETS = {"ADASPA_REDIS_URL": "redis://secret:6379/0"}


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_object_is_one_that_kubernetes_takes(values: dict[str, Any]) -> None:
    objects = render(values)
    for item in objects:
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_pod_keeps_to_the_restricted_standard(values: dict[str, Any]) -> None:
    for pod in pods(render(values)):
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for item in pod["containers"]:
            assert item["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_variable_is_a_setting_and_can_be_read(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in pods(render(values)):
        for item in pod["containers"]:
            names = {entry["name"] for entry in item.get("env", [])}
            assert len(names) == len(item.get("env", []))
            known = {f"ADASPA_{name.upper()}" for name in Settings.model_fields}
            assert names <= known | STANDARD_VARIABLES
            with monkeypatch.context() as context:
                for entry in item.get("env", []):
                    context.setenv(entry["name"], entry.get("value", SECRETS.get(entry["name"], "k" * 48)))
                Settings()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replicas": 0}}, "replicas"),
        ({"models": []}, "models"),
        ({"models": [{"id": "Wan!", "replicas": 1, "resources": {}}]}, "id"),
        ({"models": [TWO_MODELS[0], TWO_MODELS[0]]}, "wan2.1-1.3b is there twice"),
        ({"storage": {"url": "ftp://nowhere"}}, "url"),
        ({"redis": {"embedded": {"enabled": False}}}, "redis.existingSecret.name"),
        ({"ingress": {"enabled": True}}, "ingress.host"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
        ({"tracing": {"endpoint": "collector"}}, "endpoint"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render(values)
    assert words in str(refused.value)


def test_the_schema_is_strict_throughout() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)

    def check(part: Any, where: str) -> None:
        if isinstance(part, dict):
            assert "properties" not in part or part.get("additionalProperties") is False, where
            for key, inner in part.items():
                check(inner, f"{where}.{key}")

    check(schema, "values")


def test_workers_follow_the_gateways_own_count_and_only_idle_ones_are_ended() -> None:
    scaled = one(render(FILES["single-gpu"]), "ScaledObject")["spec"]
    trigger = scaled["triggers"][0]["metadata"]
    assert scaled["scaleTargetRef"]["name"] == "r-worker-demo"
    assert (scaled["minReplicaCount"], scaled["cooldownPeriod"]) == (0, 900)
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"] == {"selectPolicy": "Disabled"}
    assert trigger["url"] == "http://r-gateway.videos.svc:9100/metrics"
    assert trigger["valueLocation"] == 'adaspa_jobs_unfinished{model="demo"}'
    deployment = next(d for d in render(FILES["single-gpu"]) if d["metadata"]["name"] == "r-worker-demo")
    assert "replicas" not in deployment["spec"]


def test_monitors_select_ports_and_pods_that_exist() -> None:
    objects = render(FILES["s3-production"])
    service = next(item for item in objects if item["kind"] == "Service")
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    worker = next(item for item in objects if item["metadata"]["name"] == "r-worker-demo")["spec"]["template"]
    pod_monitor = one(objects, "PodMonitor")["spec"]
    assert pod_monitor["selector"]["matchLabels"].items() <= worker["metadata"]["labels"].items()
    assert pod_monitor["podMetricsEndpoints"][0]["port"] in {
        port["name"] for port in worker["spec"]["containers"][0]["ports"]
    }


def test_every_alert_has_its_runbook() -> None:
    groups = one(render(FILES["s3-production"]), "PrometheusRule")["spec"]["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    guide = (CHART.parents[1] / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^### (\w+)$", guide, re.M)) == alerts


def test_secrets_are_only_named() -> None:
    worker = container(render(FILES["s3-production"]), "worker")
    redis_url = next(entry for entry in worker["env"] if entry["name"] == "ADASPA_REDIS_URL")
    assert redis_url["valueFrom"] == {"secretKeyRef": {"name": "adaspa-redis", "key": "url"}}
    assert worker["envFrom"] == [{"secretRef": {"name": "adaspa-s3"}}]


def test_the_first_api_key_is_drawn_unless_it_is_given_or_the_service_is_open() -> None:
    drawn = render({})
    secret = one(drawn, "Secret")
    (data,) = secret["data"].values()
    assert len(base64.b64decode(data)) == 48
    reference = {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "api-key"}}
    for name, variable in (("gateway", "ADASPA_BOOTSTRAP_KEY"), ("client", "ADASPA_API_KEY")):
        assert {"name": variable, "valueFrom": reference} in container(drawn, name)["env"]
    for values in (FILES["s3-production"], VARIANTS["open"]):
        assert all(item["kind"] != "Secret" for item in render(values))
    assert {"name": "ADASPA_OPEN_ACCESS", "value": "true"} in container(render(VARIANTS["open"]), "gateway")["env"]
    given = {entry["name"]: entry for entry in container(render(FILES["s3-production"]), "gateway")["env"]}
    assert given["ADASPA_BOOTSTRAP_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "adaspa-api-key"


def test_queries_of_dashboard_and_alerts_name_only_metrics_that_exist(service: Service) -> None:
    objects = render(FILES["s3-production"])
    dashboards = [item["data"]["adaspa.json"] for item in objects if item["metadata"]["name"] == "r-dashboard"]
    queries = [target["expr"] for panel in json.loads(dashboards[0])["panels"] for target in panel["targets"]]
    queries += [rule["expr"] for group in one(objects, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    service.completed()
    families = [*make_registry(service.parts).collect(), *service_families(service)]
    families += [
        family
        for metric in vars(worker_metrics).values()
        if isinstance(metric, Counter | Gauge | Histogram)
        for family in metric.describe()
    ]
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    names = {family.name + suffix for family in families for suffix in suffixes.get(family.type, [""])}
    for query in queries:
        used = set(re.findall(r"adaspa_\w+", query))
        assert used and used <= names, query


def service_families(service: Service) -> Any:
    """What the running gateway counts itself."""
    return text_string_to_metric_families(service.http.get("/metrics").text)


def test_the_workers_probe_command_runs(tmp_path: Path) -> None:
    worker = container(render({}), "worker")
    command = worker["livenessProbe"]["exec"]["command"]
    assert [worker[probe]["exec"]["command"] for probe in ("startupProbe", "readinessProbe")] == [command, command]
    heartbeat = tmp_path / "heartbeat"
    env = os.environ | {"ADASPA_HEARTBEAT_FILE": str(heartbeat)}
    run = [sys.executable, *command[1:]]
    assert subprocess.run(run, env=env, capture_output=True, check=False).returncode == 1
    heartbeat.touch()
    assert subprocess.run(run, env=env, capture_output=True, check=False).returncode == 0


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Any:
    """A running gateway."""
    with serving(Settings(redis_url=redis_url, storage_url=str(tmp_path / "objects")), tmp_path) as running:
        yield running


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_the_gateways_probes_are_answered(service: Service, probe: str) -> None:
    path = container(render({}), "gateway")[probe]["httpGet"]["path"]
    assert service.http.get(path).status_code == 200
