"""The Helm chart as Helm renders it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHART = Path(__file__).parents[1] / "helm" / "adaspa-serve"


def render(values: dict[str, Any], folder: Path = CHART, release: str = "r") -> list[dict[str, Any]]:
    """Every object of a release."""
    with helm.Chart.load(folder) as chart:
        texts = chart.render(values, name=release, namespace="videos")
    files = [text for name, text in texts.items() if name.endswith(".yaml")]
    return [item for text in files for item in yaml.load_all(text, yaml.CSafeLoader) if item]


def merged(*values: dict[str, Any]) -> dict[str, Any]:
    """Values files on top of each other, as Helm takes several: lists are replaced."""
    result: dict[str, Any] = {}
    for each in values:
        for name, value in each.items():
            both = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = merged(result[name], value) if both else value
    return result


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The spec of every pod."""
    owned = [item["spec"]["template"]["spec"] for item in objects if item["kind"] in ("Deployment", "StatefulSet")]
    return owned + [item["spec"] for item in objects if item["kind"] == "Pod"]


def variables(item: dict[str, Any], secrets: Mapping[str, str]) -> dict[str, str]:
    """A container's variables as the kubelet sets them; ``secrets`` by the variable that takes one, others are k's."""
    found: dict[str, str] = {}
    for entry in item.get("env", []):
        value = entry["value"] if "value" in entry else secrets.get(entry["name"], "k" * 48)
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value)
    return found


def container(objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(c for pod in pods(objects) for c in pod["containers"] if c["name"] == name)
