"""The Helm chart: rendered by Helm itself, checked against Kubernetes' schemas, its commands run for real."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import helm_python as helm
import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from adaspa_api.words import ErrorCode
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import SECRET, Settings
from adaspa_service.access.hosts import check_name
from adaspa_service.errors import ApiError
from adaspa_service.gateway.metrics import make_registry
from adaspa_worker import metrics as worker_metrics
from field_tables import CHART_SCHEMA, chart_schema
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from prometheus_text import value
from rendered_chart import CHART, container, merged, one, pods, render, variables
from running_gateway import Service, serving

ROOT = CHART.parents[1]
STEPS = (ROOT / "docs" / "kubernetes.md").read_text()
"""The guide from an empty namespace to a video."""
STEPS_POLICY, STEPS_VALUES = re.findall(r"^```(?:json|yaml)\n(.*?)^```$", STEPS, re.M | re.S)
RECIPE = yaml.safe_load((CHART / "values" / "recipes" / "wan2.2-ti2v-5b.yaml").read_text())
FILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "values").glob("*.yaml"))}
DEMO = json.loads(files("adaspa_jobs").joinpath("catalog.json").read_text())[0]
WAN = DEMO | {"id": "wan2.1-1.3b", "source": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"}
TWO_MODELS = [{"id": name, "replicas": 1, "resources": {}} for name in ("wan2.1-1.3b", "demo")]
CACHE = {"size": "60Gi", "accessMode": "ReadWriteMany", "tokenSecret": {"name": "hub", "key": "token"}}
CACHED = [TWO_MODELS[0] | {"modelCache": CACHE, "runtimeClassName": "nvidia"}]
SCALED = {"enabled": True, "minReplicas": 0, "maxReplicas": 4}
GPU = {"limits": {"nvidia.com/gpu": 1}}
QUICK = TWO_MODELS[1] | {"only": "interactive"}
MILLION = {"replicas": 10**6, "startFailures": 10**6, "terminationGraceSeconds": 10**6}
LARGE = {
    "settings": {"result_ttl_seconds": 2_592_000, "bulk_share": 0.25, "webhook_http": True},
    "gateway": {"autoscaling": {"enabled": True, "minReplicas": 10**6, "maxReplicas": 10**6}},
    "models": [TWO_MODELS[1] | MILLION, TWO_MODELS[0] | {"autoscaling": SCALED | {"maxReplicas": 10**6}}],
    "catalog": [DEMO, WAN],
}
NEAR = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}}
PROXY = {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}
TRACED = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://b:4318"}
EXTRAS = {
    "podAnnotations": {"team": "video"},
    "extraEnv": [PROXY],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/own"}],
    "extraEnvFrom": [{"secretRef": {"name": "proxies"}}],
    "podLabels": {"team": "video"},
    "priorityClassName": "videos",
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
}
DIGEST = "sha256:" + 64 * "0"
LEFT_TO_THE_CLUSTER = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
OTHERS = [
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}},
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-other}",
]
FILLED = {"existingClaim": "weights", "readOnly": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    **FILES,
    "steps": merged(RECIPE, yaml.safe_load(STEPS_VALUES)),
    "two-models": {"models": TWO_MODELS, "catalog": [DEMO, WAN]},
    "route": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example.com"]}},
    "open": {"access": {"open": True}},
    "cached": {"models": CACHED, "catalog": [WAN], "worker": {"extraEnvFrom": EXTRAS["extraEnvFrom"]}},
    "one-queue": {"models": [TWO_MODELS[1], QUICK]},
    "signed": {"secretSettings": {"webhook_secrets": {"name": "hooks", "key": "secrets"}}},
    "labelled": {"monitoring": {"monitors": True, "rules": True, "labels": {"release": "prometheus"}}},
    "unguarded": {"networkPolicy": {"enabled": False}, "imagePullSecrets": [{"name": "pull"}]},
    "extended": {
        "gateway": EXTRAS | {"affinity": NEAR},
        "worker": EXTRAS | {"kernelCache": {"size": "5Gi"}},
        "models": [TWO_MODELS[1] | {"affinity": NEAR}],
    },
    "many-nodes": {"storage": {"volume": {"accessMode": "ReadWriteMany"}}, "gateway": {"affinity": NEAR}},
    "filled": {"models": [TWO_MODELS[0] | {"replicas": 3, "modelCache": FILLED}], "catalog": [WAN]},
    "large": LARGE,
    "pinned": {"gateway": {"image": {"digest": DIGEST}}, "worker": {"image": {"digest": DIGEST}}},
    "openshift": {"podSecurityContext": LEFT_TO_THE_CLUSTER},
    "more-objects": {"extraObjects": OTHERS},
    "own-account": {"serviceAccount": {"create": False, "name": "mine"}},
    "numbers": {
        "serviceAccount": {"name": "123"},
        "ingress": {"enabled": True, "host": "a.example.com", "className": "1"},
        "monitoring": {"monitors": True, "labels": {"app.kubernetes.io/instance": "7"}},
    },
}
CUSTOM = {"ScaledObject", "ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}
STANDARD_VARIABLES = {
    "HOME",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "ADASPA_API_KEY",
    "FORWARDED_ALLOW_IPS",
    "HTTPS_PROXY",
    "REDIS_PASSWORD",
    "REDISCLI_AUTH",
}
SECRETS = {
    "ADASPA_REDIS_URL": "redis://secret:6379/0",
    "ADASPA_WEBHOOK_SECRETS": "whsec_" + base64.b64encode(b"k" * 24).decode(),
}


def cached(**fields: Any) -> dict[str, Any]:
    """Values with a volume for the demo model; its workers' fields among those of the volume."""
    workers = {name: fields.pop(name) for name in ("replicas", "autoscaling") if name in fields}
    return {"models": [TWO_MODELS[1] | workers | {"modelCache": fields}], "storage": {"url": "s3://videos"}}


@pytest.fixture(scope="module", autouse=True)
def schemas_read_once() -> Iterator[None]:
    """kubernetes_validate reads megabytes of JSON anew for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
        yield


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_object_is_one_that_kubernetes_takes(values: dict[str, Any]) -> None:
    objects = render(values)
    for item in objects:
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(names) == len(set(names))


def test_helm_finds_nothing_in_the_chart_but_that_it_has_no_icon() -> None:
    for values in ({}, *FILES.values(), VARIANTS["steps"]):
        report = helm.lint(CHART, values, strict=True)
        assert [found["error"] for found in report["messages"]] == ["icon is recommended"] and not report["errors"]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_pod_keeps_to_the_restricted_standard(values: dict[str, Any]) -> None:
    for pod in pods(render(values)):
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for item in [*pod["containers"], *pod.get("initContainers", [])]:
            assert item["name"] == "worker" or item["resources"]["limits"]["memory"]
            assert item["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_pods_are_placed_labelled_and_pinned_as_asked() -> None:
    asked = {part: EXTRAS | {"image": {"digest": DIGEST}} for part in ("gateway", "worker")}
    for item in render(asked | {"storage": {"url": "s3://videos", "existingSecret": "bucket"}}):
        if item["kind"] == "Deployment":
            template, pod = item["spec"]["template"], item["spec"]["template"]["spec"]
            assert template["metadata"]["labels"]["team"] == "video" and pod["priorityClassName"] == "videos"
            spread = pod["topologySpreadConstraints"][0]
            assert spread["topologyKey"] == "zone" and spread["labelSelector"] == item["spec"]["selector"]
            container = pod["containers"][0]
            assert container["image"].endswith(f"@{DIGEST}")
            assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["bucket", "proxies"]


def test_a_group_of_gpus_is_one_pod_with_memory_that_its_processes_share() -> None:
    asked = {"models": [TWO_MODELS[1] | {"resources": {"limits": {"nvidia.com/gpu": 2}}}, TWO_MODELS[0]]}
    objects = render(asked | {"catalog": [DEMO | {"gpus": 2}, WAN]})
    shared = {}
    for spec in pods(objects):
        for volume in spec.get("volumes", []):
            if volume["name"] == "shm":
                (worker,) = spec["containers"]
                shared[worker["args"][1]] = (volume["emptyDir"]["sizeLimit"], worker["resources"].get("limits"))
    assert shared == {"demo": ("8Gi", {"nvidia.com/gpu": 2}), "wan2.1-1.3b": ("1Gi", None)}


def test_users_and_groups_can_be_left_to_the_cluster_as_openshift_wants() -> None:
    for pod in pods(render({"podSecurityContext": LEFT_TO_THE_CLUSTER})):
        assert not pod["securityContext"].keys() & LEFT_TO_THE_CLUSTER.keys()
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_a_pods_scratch_is_bounded_and_compiled_kernels_outlive_it_where_they_can() -> None:
    for pod in pods(render({"gateway": {"tmpSize": "7Gi"}})):
        for volume in pod.get("volumes", []):
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]
            if pod["containers"][0]["name"] == "gateway" and volume["name"] == "tmp":
                assert volume["emptyDir"] == {"sizeLimit": "7Gi"}
    for variant, folder in (("defaults", "/tmp/"), ("cached", "/models/"), ("filled", "/tmp/")):
        env = {entry["name"]: entry.get("value") for entry in container(render(VARIANTS[variant]), "worker")["env"]}
        assert env["ADASPA_KERNEL_CACHE"].startswith(folder)


def test_pods_are_replaced_with_the_secrets_that_they_read(tmp_path: Path) -> None:
    """Without a cluster Helm looks up nothing, so the chart's copy is told what it would find."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    helpers = copy / "templates" / "_helpers.tpl"
    text, asked = helpers.read_text(), 'lookup "v1" "Secret" $.root.Release.Namespace .'
    assert text.count(asked) == 1

    def checksums(changed: str) -> dict[str, str]:
        version = f'(dict "metadata" (dict "resourceVersion" (ternary "2" "1" (eq . "{changed}"))))'
        helpers.write_text(text.replace(asked, version))
        deployments = [item for item in render(FILES["s3-production"], copy) if item["kind"] == "Deployment"]
        return {
            item["metadata"]["name"]: item["spec"]["template"]["metadata"]["annotations"]["checksum/secrets"]
            for item in deployments
        }

    before = checksums("")
    for secret, parts in (
        ("adaspa-redis", {"r-gateway", "r-worker-wan2-2-ti2v-5b"}),
        ("adaspa-s3", {"r-gateway", "r-worker-wan2-2-ti2v-5b"}),
        ("adaspa-api-key", {"r-gateway"}),
    ):
        assert {name for name, found in checksums(secret).items() if found != before[name]} == parts


def test_a_model_of_the_catalog_that_no_worker_serves_is_told() -> None:
    with helm.Chart.load(CHART) as chart:
        texts = chart.render({"catalog": [DEMO, WAN]}, name="r", namespace="videos")
    (notes,) = [text for name, text in texts.items() if name.endswith("NOTES.txt")]
    assert "wan2.1-1.3b is in catalog but not in models, so no worker serves it." in notes
    assert "demo is in catalog" not in notes


def test_further_objects_are_of_the_release() -> None:
    names = [item["metadata"]["name"] for item in render({"extraObjects": OTHERS}) if item["kind"] == "ConfigMap"]
    assert {"one", "r-other"} <= set(names)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_every_variable_is_a_setting_and_can_be_read(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in pods(render(values)):
        for item in [*pod["containers"], *pod.get("initContainers", [])]:
            names = {entry["name"] for entry in item.get("env", [])}
            assert len(names) == len(item.get("env", []))
            known = {f"ADASPA_{name.upper()}" for name in Settings.model_fields}
            assert names <= known | STANDARD_VARIABLES
            with monkeypatch.context() as context:
                for name, value in variables(item, SECRETS).items():
                    context.setenv(name, value)
                Settings()


def test_a_large_number_is_written_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helm's own way to write a million is 1e+06."""
    objects = render(LARGE)
    assert "e+" not in yaml.safe_dump_all(objects)
    env = {entry["name"]: entry.get("value") for entry in container(objects, "gateway")["env"]}
    for name in ("ADASPA_RESULT_TTL_SECONDS", "ADASPA_BULK_SHARE", "ADASPA_WEBHOOK_HTTP"):
        monkeypatch.setenv(name, env[name])
    settings = Settings()
    assert (settings.result_ttl_seconds, settings.bulk_share, settings.webhook_http) == (2_592_000, 0.25, True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replicas": 0}}, "replicas"),
        ({"models": []}, "models"),
        ({"models": [{"id": "Wan!", "replicas": 1, "resources": {}}]}, "id"),
        ({"models": [TWO_MODELS[1], TWO_MODELS[1]]}, "demo is there twice"),
        ({"models": TWO_MODELS}, "wan2.1-1.3b is not in the catalog; there is demo"),
        ({"models": TWO_MODELS, "catalog": [WAN]}, "demo is not in the catalog; there is wan2.1-1.3b"),
        ({"catalog": [WAN | {"invented": 1}]}, "invented"),
        ({"catalog": [{"id": "wan"}]}, "source"),
        ({"catalog": [WAN | {"sizes": "832x480"}]}, "/catalog/0/sizes"),
        ({"catalog": [WAN | {"steps_range": [1, 2, 3]}]}, "/catalog/0/steps_range"),
        (cached(), "modelCache"),
        (cached(existingClaim="x", size="1Gi"), "existingClaim and size"),
        (cached(existingClaim="x", accessMode="ReadWriteMany"), "accessMode and storageClass are of a new volume"),
        (cached(size="1Gi", accessMode="ReadOnlyMany"), "value must be one of 'ReadWriteOnce', 'ReadWriteMany'"),
        (cached(size="1Gi", readOnly=True), "models.modelCache.readOnly: a new volume is empty"),
        (
            cached(size="1Gi", replicas=3),
            "a ReadWriteOnce volume is for one node, and demo may have 3 workers; allowed",
        ),
        (cached(size="1Gi", autoscaling=SCALED), "demo may have 4 workers; allowed: ReadWriteMany, or one worker"),
        ({"models": [TWO_MODELS[1] | {"replicas": 0}]}, "storage.volume.accessMode: with ReadWriteOnce gateways run"),
        ({"models": [TWO_MODELS[1] | {"autoscaling": SCALED}]}, "allowed: ReadWriteMany, a storage.url, or a model"),
        ({"models": [TWO_MODELS[1] | {"id": "demo-"}]}, "/models/0/id"),
        ({"gateway": {"autoscaling": {"minReplicas": 9}}}, "gateway.autoscaling: maxReplicas is below minReplicas"),
        ({"worker": {"extraEnv": [{"name": "ADASPA_QUEUE_CAP"}]}}, "worker.extraEnv: ADASPA_QUEUE_CAP is a setting"),
        *(
            ({part: {"extraEnv": [{"name": name, "value": "x"}]}}, f"{part}.extraEnv: {name} is there twice, or is a")
            for part, name in (("gateway", "HOME"), ("gateway", "REDIS_PASSWORD"), ("worker", "HOME"))
        ),
        ({"gateway": {"extraEnv": [PROXY, PROXY]}}, "gateway.extraEnv: HTTPS_PROXY is there twice"),
        (
            cached(size="1Gi", tokenSecret={"name": "hub", "key": "token"})
            | {"worker": {"extraEnv": [{"name": "HF_TOKEN", "value": "x"}]}},
            "worker.extraEnv: HF_TOKEN is there twice",
        ),
        (
            {"tracing": {"endpoint": "http://a:4318"}, "gateway": {"extraEnv": [TRACED]}},
            "gateway.extraEnv: OTEL_EXPORTER_OTLP_ENDPOINT is there twice",
        ),
        ({"gateway": {"affinity": {"nodeAfinity": {}}}}, "nodeAfinity"),
        ({"models": [TWO_MODELS[1] | {"autoscaling": SCALED | {"scaleDown": "never"}}]}, "scaleDown"),
        (
            {"models": [TWO_MODELS[1] | {"autoscaling": SCALED | {"minReplicas": 9}}]},
            "maxReplicas is below minReplicas",
        ),
        ({"models": [QUICK | {"only": "slow"}]}, "only"),
        ({"models": [TWO_MODELS[1], QUICK, QUICK]}, "worker-demo-interactive is there twice"),
        ({"models": [QUICK]}, "nobody would serve the bulk queue of demo"),
        ({"models": [TWO_MODELS[1], QUICK | {"autoscaling": SCALED}]}, "models.only: demo is scaled by"),
        ({"models": [TWO_MODELS[1] | {"autoscaling": SCALED}, QUICK]}, "allowed beside them: any"),
        ({"settings": {"lease_secnds": 3}}, "lease_secnds"),
        ({"settings": {"storage_url": "s3://videos"}}, "storage_url"),
        ({"settings": {"webhook_secrets": "whsec_x"}}, "settings.webhook_secrets: is a secret"),
        ({"secretSettings": {"queue_cap": {"name": "x", "key": "y"}}}, "queue_cap"),
        (
            {"models": [TWO_MODELS[1] | {"resources": GPU}], "catalog": [DEMO | {"gpus": 2}]},
            "models.resources.limits: demo has 1 of nvidia.com/gpu, and its catalog entry says gpus: 2",
        ),
        ({"httpRoute": {"enabled": True, "parentRefs": [{"gateway": "public"}]}}, "gateway"),
        ({"storage": {"url": "ftp://nowhere"}}, "url"),
        ({"storage": {"url": "s3:///videos"}}, "/storage/url"),
        ({"redis": {"embedded": {"enabled": False}}}, "redis.existingSecret.name"),
        (
            {"redis": {"existingSecret": {"name": "production"}}},
            "redis: embedded.enabled and existingSecret.name are both",
        ),
        (
            {"worker": {"kernelCache": {"size": "5Gi", "existingClaim": "kernels"}}},
            "worker.kernelCache: existingClaim and size are both",
        ),
        ({"ingress": {"enabled": True}}, "ingress.host"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
        ({"ingress": {"enabled": True, "host": "https://videos.example"}}, "/ingress/host"),
        ({"ingress": {"enabled": True, "host": "Videos.example"}}, "/ingress/host"),
        ({"httpRoute": {"hostnames": ["videos.example/"]}}, "/httpRoute/hostnames/0"),
        ({"gateway": {"image": {"repository": "registry:5000/adaspa-gateway:1.0"}}}, "/gateway/image/repository"),
        (
            {"access": {"open": True, "existingSecret": {"name": "keys"}}},
            "access: open and existingSecret.name are both",
        ),
        ({"catalog": [DEMO, DEMO]}, "catalog: demo is there twice"),
        ({"settings": {"queue_cap": "many"}}, "/settings/queue_cap"),
        ({"settings": {"queue_cap": 0}}, "/settings/queue_cap"),
        ({"settings": {"bulk_share": 1}}, "/settings/bulk_share"),
        ({"settings": {"log_level": "chatty"}}, "value must be one of 'debug', 'info', 'warning', 'error'"),
        ({"settings": {"webhook_http": "perhaps"}}, "/settings/webhook_http"),
        ({"tracing": {"endpoint": "collector"}}, "endpoint"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render(values)
    assert words in str(refused.value)


def test_a_name_that_is_too_long_for_what_kubernetes_or_keda_makes_of_it_is_refused() -> None:
    own = {"redis": {"embedded": {"enabled": False}, "existingSecret": {"name": "redis"}}}
    long = DEMO | {"id": "m" * 41}
    scaled = own | {
        "catalog": [long],
        "models": [TWO_MODELS[1] | {"id": long["id"], "autoscaling": SCALED | {"minReplicas": 1}}],
    }
    for values, most, words in (({}, 46, "allowed with redis.embedded.enabled: 46"), (scaled, 14, "63 characters")):
        assert render(values, release="r" * most)
        with pytest.raises(helm.HelmError, match=words):
            render(values, release="r" * (most + 1))
    assert render(own, release="r" * 53)


def test_the_schema_is_strict_throughout() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)

    def check(part: Any, where: str) -> None:
        if isinstance(part, dict):
            if part.get("type") == "object":
                assert "additionalProperties" in part, where
            assert "properties" not in part or part["additionalProperties"] is False, where
            for name, inner in part.get("properties", {}).items():
                assert inner.get("description"), f"{where}.{name}"
            for key, inner in part.items():
                check(inner, f"{where}.{key}")
        elif isinstance(part, list):
            for inner in part:
                check(inner, where)

    check(schema, "values")


def test_the_schema_says_of_the_catalog_what_its_fields_say() -> None:
    assert chart_schema() == CHART_SCHEMA.read_text(), "run: make field-tables"


def test_the_schema_knows_every_setting_but_those_that_the_chart_makes_itself() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    ours = {"ADASPA_PORT", "ADASPA_OPEN_TOKEN"}  # 8000, to which probes and Service lead; asked for on loopback alone
    for values in (VARIANTS["open"], VARIANTS["cached"]):
        ours |= {entry["name"] for name in ("gateway", "worker") for entry in container(render(values), name)["env"]}
    secrets = SECRET - {"open_token"}  # refused by the template, which says where they belong
    known = {name for name in Settings.model_fields if f"ADASPA_{name.upper()}" not in ours}
    assert set(schema["properties"]) == known | secrets


def test_the_catalog_comes_to_gateway_and_worker_as_they_read_it(tmp_path: Path) -> None:
    objects = render(VARIANTS["two-models"])
    file = tmp_path / "catalog.json"
    file.write_text(next(item for item in objects if item["metadata"]["name"] == "r-catalog")["data"]["catalog.json"])
    assert list(Catalog.load(file).models) == ["demo", "wan2.1-1.3b"]
    for name in ("gateway", "worker"):
        found = container(objects, name)
        assert {"name": "ADASPA_CATALOG", "value": "/etc/adaspa/catalog.json"} in found["env"]
        assert {"name": "catalog", "mountPath": "/etc/adaspa", "readOnly": True} in found["volumeMounts"]


def test_workers_of_one_queue_are_a_deployment_beside_the_others() -> None:
    objects = render(VARIANTS["one-queue"])
    deployments = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "Deployment"}
    both, quick = deployments["r-worker-demo"], deployments["r-worker-demo-interactive"]
    arguments = [container([{"kind": "Deployment", "spec": spec}], "worker")["args"] for spec in (both, quick)]
    assert arguments == [["--model", "demo"], ["--model", "demo", "--only", "interactive"]]
    labels = [spec["template"]["metadata"]["labels"] for spec in (both, quick)]
    for spec in (both, quick):
        selector = spec["selector"]["matchLabels"].items()
        assert [selector <= each.items() for each in labels] == [spec is both, spec is quick]


def test_a_model_is_fetched_into_its_volume_before_the_worker_starts() -> None:
    objects = render(VARIANTS["cached"])
    deployment = next(item for item in objects if item["metadata"]["name"] == "r-worker-wan2-1-1-3b")
    pod = deployment["spec"]["template"]["spec"]
    (fetch,) = pod["initContainers"]
    assert fetch["command"] + fetch["args"] == ["python", "-m", "adaspa_worker.fetch_model", "--model", "wan2.1-1.3b"]
    claim = next(item for item in objects if item["metadata"]["name"] == "r-worker-wan2-1-1-3b-models")
    assert claim["spec"]["resources"]["requests"]["storage"] == "60Gi"
    volume = next(item for item in pod["volumes"] if item["name"] == "models")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for item in (fetch, container(objects, "worker")):
        assert {"name": "models", "mountPath": "/models"} in item["volumeMounts"]
        assert {"name": "HF_HOME", "value": "/models"} in item["env"]
    assert fetch["envFrom"] == EXTRAS["extraEnvFrom"], "such as a proxy's address with its password"
    token = next(entry for entry in fetch["env"] if entry["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    assert not [entry for entry in container(objects, "worker")["env"] if entry["name"] == "HF_TOKEN"]


def test_the_command_that_fetches_a_model_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "adaspa_worker.fetch_model", "--model"]
    done = subprocess.run([*command, "demo"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("builtin:demo: /")
    done = subprocess.run([*command, "none"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "--model: 'none' is not in the catalog; allowed: demo, demo-image\n")


def test_every_object_can_be_found_by_its_labels() -> None:
    for item in render(VARIANTS["labelled"]):
        labels = item["metadata"]["labels"]
        assert (labels["app.kubernetes.io/name"], labels["app.kubernetes.io/instance"]) == ("adaspa-serve", "r")
        assert labels["app.kubernetes.io/version"] and labels["helm.sh/chart"].startswith("adaspa-serve-")
        if item["kind"] in ("ServiceMonitor", "PodMonitor", "PrometheusRule"):
            assert labels["release"] == "prometheus"
        if selector := item.get("spec", {}).get("selector", {}).get("matchLabels"):
            assert not {"app.kubernetes.io/version", "helm.sh/chart"} & set(selector), "may never change"


def test_workers_follow_the_gateways_own_count_and_only_idle_ones_are_ended() -> None:
    scaled = one(render(FILES["scale-to-zero"]), "ScaledObject")["spec"]
    trigger = scaled["triggers"][0]["metadata"]
    assert scaled["scaleTargetRef"]["name"] == "r-worker-wan2-2-ti2v-5b"
    assert (scaled["minReplicaCount"], scaled["cooldownPeriod"]) == (0, 900)
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 900
    assert trigger["url"] == "http://r-gateway.videos.svc:9100/metrics"
    assert trigger["valueLocation"] == 'adaspa_workers_wanted{model="wan2.2-ti2v-5b"}'
    deployment = next(d for d in render(FILES["scale-to-zero"]) if d["metadata"]["name"] == "r-worker-wan2-2-ti2v-5b")
    assert "replicas" not in deployment["spec"]
    freely = one(render(FILES["s3-production"]), "ScaledObject")["spec"]
    assert freely["triggers"][0]["metadata"]["valueLocation"] == 'adaspa_jobs_unfinished{model="wan2.2-ti2v-5b"}'
    behavior = freely["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_what_the_scaler_asks_the_gateway_for_is_answered(service: Service) -> None:
    def asked_of(values: dict[str, Any]) -> float | None:
        where = one(render(values), "ScaledObject")["spec"]["triggers"][0]["metadata"]["valueLocation"]
        name, model = re.fullmatch(r'(\w+)\{model="(\w+)"\}', where).groups()  # type: ignore[union-attr]
        return value(service.http.get("/metrics").text, name, model=model)

    def of_demo(values: dict[str, Any]) -> dict[str, Any]:
        return values | {"catalog": [], "models": [values["models"][0] | {"id": "demo"}]}

    idle, freely = of_demo(FILES["scale-to-zero"]), of_demo(FILES["s3-production"])
    assert (asked_of(idle), asked_of(freely)) == (0, 0)
    for worker in ("a", "b", "c"):
        service.store.announce(service.parts.catalog.default, worker)
    assert (asked_of(idle), asked_of(freely)) == (0, 0), "workers are not wanted for being there"
    lease = service.claim(service.create()["id"])
    assert (asked_of(idle), asked_of(freely)) == (3, 1), "any of the three may be the busy one"
    for _ in range(4):
        service.create()
    assert (asked_of(idle), asked_of(freely)) == (5, 5)
    service.complete(lease)
    assert (asked_of(idle), asked_of(freely)) == (4, 4)


def test_monitors_select_ports_and_pods_that_exist() -> None:
    objects = render(FILES["s3-production"])
    service = next(item for item in objects if item["kind"] == "Service")
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    worker = next(item for item in objects if item["metadata"]["name"] == "r-worker-wan2-2-ti2v-5b")["spec"]["template"]
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
    runbook = guide.partition("### AdaspaJobsFail\n")[2].partition("\n###")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", runbook, re.M)) == set(ErrorCode)


def test_the_guides_examples_of_models_are_such(tmp_path: Path) -> None:
    guide = (CHART.parents[1] / "docs" / "operations.md").read_text()
    two_queues, catalog = re.findall(r"^```yaml\n(.*?)^```$", guide, re.M | re.S)
    names = {item["metadata"]["name"] for item in render(yaml.safe_load(two_queues))}
    assert {"r-worker-demo", "r-worker-demo-interactive"} <= names
    objects = render(yaml.safe_load(catalog))
    file = tmp_path / "catalog.json"
    file.write_text(next(item for item in objects if item["metadata"]["name"] == "r-catalog")["data"]["catalog.json"])
    assert list(Catalog.load(file).models) == ["wan"]


def test_secrets_are_only_named() -> None:
    worker = container(render(FILES["s3-production"]), "worker")
    redis_url = next(entry for entry in worker["env"] if entry["name"] == "ADASPA_REDIS_URL")
    assert redis_url["valueFrom"] == {"secretKeyRef": {"name": "adaspa-redis", "key": "url"}}
    assert worker["envFrom"] == [{"secretRef": {"name": "adaspa-s3"}}]


def secrets_in(part: Any) -> set[tuple[str, str | None]]:
    """Name and key of each Secret that a rendered object asks for; without a key where it takes all of them."""
    if isinstance(part, list):
        return {found for inner in part for found in secrets_in(inner)}
    if not isinstance(part, dict):
        return set()
    references = [part[kind] for kind in ("secretKeyRef", "secretRef") if kind in part]
    here = {(found["name"], found.get("key")) for found in references}
    if "secretName" in part:
        here.add((part["secretName"], None))
    return here.union(*(secrets_in(inner) for inner in part.values()))


def test_the_guide_makes_the_secrets_that_the_values_ask_for() -> None:
    made: dict[str, list[str]] = {
        name: re.findall(r"--from-literal=([\w-]+)=", rest)
        for name, rest in re.findall(r"^kubectl create secret \w+ (\S+) (.*)$", STEPS, re.M)
    }
    for asked in (secrets_in(render(FILES["s3-production"])), secrets_in(render(VARIANTS["steps"]))):
        assert {name for name, _ in asked} == set(made)
        assert all(key in made[name] for name, key in asked if key)
    assert "AWS_ACCESS_KEY_ID" in made["adaspa-s3"]
    for values in ("cpu-trial", "single-gpu"):
        objects = render(FILES[values])
        own = {item["metadata"]["name"] for item in objects if item["kind"] == "Secret"}
        assert {name for name, _ in secrets_in(objects)} == own, "no Secret of the user's is needed"
        claims = {item["metadata"]["name"] for item in objects if item["kind"] == "PersistentVolumeClaim"}
        volumes = [volume for pod in pods(objects) for volume in pod.get("volumes", [])]
        named = {each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each}
        assert named <= claims, "no volume of the user's is needed"


def test_the_first_api_key_is_drawn_unless_it_is_given_or_the_service_is_open() -> None:
    drawn = render({})
    secret = next(item for item in drawn if item["metadata"]["name"] == "r-api-key")
    (data,) = secret["data"].values()
    assert len(base64.b64decode(data)) == 48
    reference = {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "api-key"}}
    for name, variable in (("gateway", "ADASPA_BOOTSTRAP_KEY"), ("client", "ADASPA_API_KEY")):
        assert {"name": variable, "valueFrom": reference} in container(drawn, name)["env"]
    for values in (FILES["s3-production"], VARIANTS["open"]):
        assert all(item["metadata"]["name"] != "r-api-key" for item in render(values))
    assert {"name": "ADASPA_OPEN_ACCESS", "value": "true"} in container(render(VARIANTS["open"]), "gateway")["env"]
    given = {entry["name"]: entry for entry in container(render(FILES["s3-production"]), "gateway")["env"]}
    assert given["ADASPA_BOOTSTRAP_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "adaspa-api-key"


def test_an_open_gateway_answers_under_its_own_names() -> None:
    """Those of the Service, as pods write them, and those that lead in from outside."""
    outside = {"ingress": {"enabled": True, "host": "videos.example.com"}, "httpRoute": VARIANTS["route"]["httpRoute"]}
    values = VARIANTS["open"] | outside | {"access": {"open": True, "hosts": ["*.lab.example"]}}
    given = {entry["name"]: entry.get("value") for entry in container(render(values), "gateway")["env"]}
    settings = Settings(open_access=True, allowed_hosts=given["ADASPA_ALLOWED_HOSTS"])  # type: ignore[arg-type]
    asked = ("r-gateway", "r-gateway.videos.svc.cluster.local", "videos.example.com", "a.example.com", "x.lab.example")
    for name in asked:
        check_name(settings, name)
    with pytest.raises(ApiError, match="not a name of this service"):
        check_name(settings, "evil.example")
    assert "ADASPA_ALLOWED_HOSTS" not in {entry["name"] for entry in container(render({}), "gateway")["env"]}


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
    labels = {name: known for family in families for name, known in labels_of(family)}
    for query in queries:
        selected = list(selectors(promql_parser.parse(query)))
        assert selected, query
        for selector in selected:
            assert selector.name in names, query
            matched = {matcher.name for matcher in selector.matchers.matchers} - {"namespace"}  # Prometheus' own
            assert matched <= labels.get(selector.name, matched), query


def test_the_dashboard_shows_the_release_of_the_namespace_that_is_chosen() -> None:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    (chosen,) = [each for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert chosen["name"] == "namespace" and chosen["allValue"] == ".*", "of compose's series, which have none"
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            for selector in selectors(promql_parser.parse(target["expr"])):
                matchers = [(each.name, each.value) for each in selector.matchers.matchers]
                assert ("namespace", "$namespace") in matchers, target["expr"]


def labels_of(family: Any) -> Iterator[tuple[str, set[str]]]:
    """Names of a family's samples with their labels, if it has samples yet."""
    for sample in family.samples:
        yield sample.name, set(sample.labels)


def selectors(part: Any) -> Iterator[Any]:
    """The series that a query names."""
    if isinstance(part, promql_parser.VectorSelector):
        yield part
    else:
        for name in ("expr", "lhs", "rhs", "vs", "args", "vector_selector"):
            inner = getattr(part, name, None)
            for each in inner if isinstance(inner, list) else [inner]:
                if each is not None and not isinstance(each, str):
                    yield from selectors(each)


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
    os.utime(heartbeat, 2 * (time.time() + 3600,))
    set_back = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert set_back.returncode == 1 and "s ahead of the clock" in set_back.stderr


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Any:
    """A running gateway."""
    with serving(Settings(redis_url=redis_url, storage_url=str(tmp_path / "objects")), tmp_path) as running:
        yield running


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_the_gateways_probes_are_answered(service: Service, probe: str) -> None:
    path = container(render({}), "gateway")[probe]["httpGet"]["path"]
    assert service.http.get(path).status_code == 200


def test_the_proxies_that_are_trusted_can_be_named() -> None:
    ingress = {"ingress": {"enabled": True, "host": "videos.example"}}
    for extra, wanted in (([], "*"), ([{"name": "FORWARDED_ALLOW_IPS", "value": "10.0.0.0/8"}], "10.0.0.0/8")):
        gateway = container(render(ingress | {"gateway": {"extraEnv": extra}}), "gateway")
        found = [each["value"] for each in gateway["env"] if each["name"] == "FORWARDED_ALLOW_IPS"]
        assert found == [wanted]
