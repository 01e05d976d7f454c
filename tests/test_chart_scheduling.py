"""The chart's pods on clusters as Google, Amazon and Azure sell them, by the rules of Kubernetes' scheduler."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import permutations
from math import ceil, floor
from typing import Any

import pytest
import yaml
from adaspa_service.gateway.connections import STOP_SECONDS
from rendered_chart import CHART, merged, render

FILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "values").glob("*.yaml"))}
UNITS = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30}


@dataclass
class Node:
    """A machine: its labels, its taints as key and value, what it gives to pods, and the pods that it has."""

    labels: dict[str, str]
    taints: dict[str, str]
    room: dict[str, str]
    pods: list[dict[str, Any]] = field(default_factory=list)


CLUSTERS = {
    "gke": [  # e2-standard-4, g2-standard-12
        Node({"cloud.google.com/gke-nodepool": "default-pool"}, {}, {"cpu": "3920m", "memory": "13Gi"}),
        Node(
            {"cloud.google.com/gke-accelerator": "nvidia-l4"},
            {"nvidia.com/gpu": "present"},
            {"cpu": "11910m", "memory": "43Gi", "nvidia.com/gpu": "1"},
        ),
    ],
    "eks": [  # m5.xlarge, two g5.4xlarge
        Node({"node.kubernetes.io/instance-type": "m5.xlarge"}, {}, {"cpu": "3920m", "memory": "14Gi"}),
        *(
            Node(
                {"node.kubernetes.io/instance-type": "g5.4xlarge"},
                {"nvidia.com/gpu": "true"},
                {"cpu": "15890m", "memory": "60Gi", "nvidia.com/gpu": "1"},
            )
            for _ in range(2)
        ),
    ],
    "aks": [  # D4s v5, NV36ads A10 v5
        Node({"kubernetes.azure.com/agentpool": "nodepool1"}, {}, {"cpu": "3860m", "memory": "12Gi"}),
        Node(
            {"accelerator": "nvidia"},
            {"sku": "gpu"},
            {"cpu": "35680m", "memory": "420Gi", "nvidia.com/gpu": "1"},
        ),
    ],
}
CLASS_OFFERS = {"ReadWriteOnce", "ReadWriteOncePod"}
"""What the default storage class of each gives: pd.csi.storage.gke.io, ebs.csi.aws.com, disk.csi.azure.com."""


def quantity(text: object) -> float:
    """A Kubernetes quantity as a number."""
    number = str(text).rstrip("mMGi")
    return float(number) * UNITS.get(str(text).removeprefix(number), 1)


def expected_pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that the controllers make, at the fewest that autoscaling has while there is work."""
    scaled = {
        item["spec"]["scaleTargetRef"]["name"]: max(
            1, item["spec"].get("minReplicas", item["spec"].get("minReplicaCount"))
        )
        for item in objects
        if item["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    return [
        deepcopy(item["spec"]["template"])
        for item in objects
        if item["kind"] in ("Deployment", "StatefulSet")
        for _ in range(item["spec"].get("replicas", scaled.get(item["metadata"]["name"])))
    ]


def requests(pod: dict[str, Any]) -> Counter[str]:
    """What the pod's containers keep for themselves; a device has only a limit."""
    total: Counter[str] = Counter()
    for container in pod["spec"]["containers"]:
        resources = container["resources"]
        for name, amount in (resources.get("limits", {}) | resources.get("requests", {})).items():
            total[name] += quantity(amount)
    return total


def bears(pod: dict[str, Any], key: str, value: str) -> bool:
    return any(
        borne.get("key") in (None, key) and (borne.get("operator") == "Exists" or borne.get("value") == value)
        for borne in pod["spec"].get("tolerations", [])
        if borne.get("effect") in (None, "NoSchedule")
    )


def matches(term: dict[str, Any], pod: dict[str, Any]) -> bool:
    assert term["topologyKey"] == "kubernetes.io/hostname"
    return bool(term["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items())


def fits(pod: dict[str, Any], node: Node, nodes: list[Node]) -> bool:
    """Whether the scheduler may put this pod there."""
    spec = pod["spec"]
    if not spec.get("nodeSelector", {}).items() <= node.labels.items():
        return False
    if not all(bears(pod, key, value) for key, value in node.taints.items()):
        return False
    used = sum((requests(other) for other in [*node.pods, pod]), Counter[str]())
    if any(amount > quantity(node.room.get(name, 0)) for name, amount in used.items()):
        return False
    affinity = spec.get("affinity", {})
    assert set(affinity) <= {"podAffinity"}, "more than this scheduler knows"
    for term in affinity.get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", []):
        anywhere = any(matches(term, other) for each in nodes for other in each.pods)
        if not any(matches(term, other) for other in node.pods) and (anywhere or not matches(term, pod)):
            return False
    return True


def claims(pod: dict[str, Any]) -> Iterator[str]:
    for volume in pod["spec"].get("volumes", []):
        if "persistentVolumeClaim" in volume:
            yield volume["persistentVolumeClaim"]["claimName"]


def stuck(objects: list[dict[str, Any]], cluster: list[Node]) -> set[str]:
    """What does not run, or may not: the pods' components and the volumes, whichever pod comes first.

    The scheduler takes pods in any order, and of the nodes that fit any.
    """
    modes = {
        item["metadata"]["name"]: set(item["spec"]["accessModes"])
        for item in objects
        if item["kind"] == "PersistentVolumeClaim"
    }
    found = {name for name, wanted in modes.items() if not wanted <= CLASS_OFFERS}
    for pods in permutations(expected_pods(objects)):
        for nodes in (deepcopy(cluster), deepcopy(cluster)[::-1]):
            waiting = list(pods)
            while placed := next(((pod, node) for pod in waiting for node in nodes if fits(pod, node, nodes)), None):
                waiting.remove(placed[0])
                placed[1].pods.append(placed[0])
            found |= {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in waiting}
            where = Counter(name for node in nodes for name in {claim for pod in node.pods for claim in claims(pod)})
            found |= {name for name, count in where.items() if count > 1 and modes[name] == {"ReadWriteOnce"}}
    return found


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("name", ["defaults", *FILES])
def test_what_the_chart_ships_runs_there(name: str, cluster: str) -> None:
    assert stuck(render(FILES.get(name, {})), CLUSTERS[cluster]) == set()


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("cpu-trial", set()),
        ("single-gpu", set()),
        ("scale-to-zero", {"keda.sh"}),
        ("s3-production", {"keda.sh", "monitoring.coreos.com"}),
    ],
)
def test_no_more_has_to_be_installed_there_than_the_file_says(name: str, needed: set[str]) -> None:
    groups = {item["apiVersion"].partition("/")[0] for item in render(FILES[name])}
    assert {group for group in groups if "." in group and not group.endswith(".k8s.io")} == needed
    said = {"keda.sh": "KEDA", "monitoring.coreos.com": "Prometheus operator"}
    head = (CHART / "values" / f"{name}.yaml").read_text().partition("\n")[0]
    assert {group for group, word in said.items() if word in head} == needed


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"storage": {"volume": {"accessMode": "ReadWriteMany"}}}, {"r-videos"}),
        ({"gateway": {"replicas": 1, "nodeSelector": {"nvidia.com/gpu.present": "true"}}}, {"gateway"}),
        ({"gateway": {"replicas": 1, "resources": {"requests": {"memory": "64Gi"}}}}, {"gateway"}),
    ],
    ids=["volume for many", "label of an operator", "too large"],
)
def test_what_does_not_is_seen(values: dict[str, Any], what: set[str]) -> None:
    assert stuck(render(values), CLUSTERS["gke"]) == what


def test_pods_that_share_a_volume_of_one_node_would_not_find_each_other_by_themselves() -> None:
    objects = render(FILES["single-gpu"])
    for item in objects:
        if item["kind"] == "Deployment":
            item["spec"]["template"]["spec"].pop("affinity")
    assert stuck(objects, CLUSTERS["gke"]) == {"r-videos"}


def test_several_gpus_of_one_node_share_its_volume() -> None:
    model = {name: value for name, value in FILES["single-gpu"]["models"][0].items() if name != "modelCache"}
    values = merged(FILES["single-gpu"], {"models": [model | {"replicas": 2}]})
    eight = Node({}, {"nvidia.com/gpu": "present"}, {"cpu": "100", "memory": "900Gi", "nvidia.com/gpu": "8"})
    assert stuck(render(values), [CLUSTERS["gke"][0], eight]) == set()


def share(part: object, replicas: int, up: bool) -> int:
    """A number of pods, or that of a percentage."""
    if not isinstance(part, str):
        return int(str(part))
    return (ceil if up else floor)(int(part.removesuffix("%")) * replicas / 100)


def is_replaced(deployment: dict[str, Any], nodes: list[Node]) -> bool:
    """Whether a rolling update of a Deployment comes to its end on nodes where its pods run already."""
    old = [pod for node in nodes for pod in node.pods if matches_selector(deployment, pod)]
    replicas = len(old)
    limits = deployment["spec"].get("strategy", {}).get("rollingUpdate", {})
    surge = share(limits.get("maxSurge", "25%"), replicas, up=True)
    unavailable = share(limits.get("maxUnavailable", "25%"), replicas, up=False)
    unavailable = unavailable if surge or unavailable else 1
    new: list[dict[str, Any]] = []
    while old:
        for _ in range(replicas + surge - len(old) - len(new)):
            pod = deepcopy(deployment["spec"]["template"])
            if node := next((node for node in nodes if fits(pod, node, nodes)), None):
                node.pods.append(pod)
                new.append(pod)
        ended = old[: len(old) + len(new) - (replicas - unavailable)]
        if not ended:
            return False
        for pod in ended:
            next(node for node in nodes if any(pod is other for other in node.pods)).pods.remove(pod)
            old.remove(pod)
    return True


def matches_selector(deployment: dict[str, Any], pod: dict[str, Any]) -> bool:
    selector = deployment["spec"]["selector"]["matchLabels"]
    return bool(selector.items() <= pod["metadata"]["labels"].items())


def deployed(objects: list[dict[str, Any]], cluster: list[Node]) -> list[Node]:
    """The nodes with all pods on them, workers first."""
    nodes = deepcopy(cluster)
    for pod in sorted(expected_pods(objects), key=lambda pod: "adaspa-serve/role" not in pod["metadata"]["labels"]):
        next(node for node in nodes if fits(pod, node, nodes)).pods.append(pod)
    return nodes


def deployments(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] == "Deployment"]


@pytest.mark.parametrize("name", ["defaults", *FILES])
def test_every_update_ends_though_no_gpu_is_free(name: str) -> None:
    objects = render(FILES.get(name, {}))
    for deployment in deployments(objects):
        assert is_replaced(deployment, deployed(objects, CLUSTERS["gke"])), deployment["metadata"]["name"]


def test_without_a_strategy_workers_would_wait_for_a_gpu_for_ever() -> None:
    objects = render(FILES["single-gpu"])
    ends = {}
    for deployment in deployments(objects):
        deployment["spec"].pop("strategy", None)
        ends[deployment["metadata"]["name"]] = is_replaced(deployment, deployed(objects, CLUSTERS["gke"]))
    assert ends == {"r-gateway": True, "r-worker-wan2-2-ti2v-5b": False}


def test_an_update_waits_for_what_pods_need_to_stop_and_to_start() -> None:
    models = [{**FILES["single-gpu"]["models"][0], "startFailures": 600}]
    values = {"gateway": {"drainSeconds": 60}, "models": models}
    for item in deployments(render(merged(FILES["single-gpu"], values))):
        spec = item["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        if container["name"] == "gateway":
            assert spec["terminationGracePeriodSeconds"] > 60 + STOP_SECONDS
            assert {"name": "ADASPA_DRAIN_SECONDS", "value": "60"} in container["env"]
        else:
            probe = container["startupProbe"]
            start = probe["failureThreshold"] * probe["periodSeconds"]
            assert item["spec"]["progressDeadlineSeconds"] > spec["terminationGracePeriodSeconds"] + start
