"""The examples of plain HTTP, as documented: the n8n workflow's requests in the order of its nodes, and the script."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ecosystem import EXAMPLES, work
from running_gateway import FILES, Service
from waiting import PATIENCE

SERVER = {"ADASPA_API_KEY": "none", "ADASPA_SERVER": ""}
EXPRESSION = re.compile(r"\{\{ (.+?) \}\}")


@pytest.fixture(autouse=True)
def stand_in(service: Service) -> Iterator[None]:
    """Completes each job that comes."""
    stopping = threading.Event()
    worker = threading.Thread(target=work, args=(service, stopping))
    worker.start()
    yield
    stopping.set()
    worker.join()


class Workflow:
    """As much of n8n as the workflow needs: nodes that follow their connections, and expressions of four kinds."""

    def __init__(self, text: str, env: dict[str, str]) -> None:
        flow = json.loads(text)
        self.nodes = {node["name"]: node for node in flow["nodes"]}
        self.connections, self.env = flow["connections"], env
        self.made: dict[str, Any] = {}
        self.before: Any = {}

    def resolved(self, text: str) -> str:
        """The text with its expressions' values; n8n marks such texts with an equals sign."""
        return EXPRESSION.sub(lambda found: str(self.value(found[1])), text[1:]) if text.startswith("=") else text

    def value(self, expression: str) -> Any:
        match re.split(r"[.(]", expression):
            case ["$env", name]:
                return self.env[name]
            case ["$execution", "id"]:
                return "17"
            case ["$json", field]:
                return self.before[field]
            case ["$", node, "item", "json", field]:
                return self.made[node.strip("')")][field]
        raise NotImplementedError(expression)

    def request(self, parameters: dict[str, Any]) -> httpx.Response:
        headers = {each["name"]: self.resolved(each["value"]) for each in parameters["headerParameters"]["parameters"]}
        body = json.loads(parameters["jsonBody"]) if parameters.get("sendBody") else None
        url = self.resolved(parameters["url"])
        return httpx.request(parameters.get("method", "GET"), url, headers=headers, json=body).raise_for_status()

    def holds(self, conditions: dict[str, Any]) -> bool:
        assert conditions["combinator"] == "or"
        return any(self.resolved(each["leftValue"]) == each["rightValue"] for each in conditions["conditions"])

    def run(self) -> tuple[list[str], bytes]:
        """The names of the nodes that ran, and the last answer."""
        name, ran, content = "Start", list[str](), b""
        while True:
            node, output = self.nodes[name], 0
            ran.append(name)
            match node["type"].rpartition(".")[2]:
                case "httpRequest":
                    content = self.request(node["parameters"]).content
                    if "responseFormat" not in json.dumps(node):
                        self.before = self.made[name] = json.loads(content)
                case "if":
                    output = 0 if self.holds(node["parameters"]["conditions"]) else 1
            if name not in self.connections:
                return ran, content
            ((name,),) = [[each["node"] for each in self.connections[name]["main"][output]]]


def test_the_n8n_workflow_makes_a_video(service: Service) -> None:
    text = (EXAMPLES / "http" / "n8n.json").read_text()
    ran, content = Workflow(text, SERVER | {"ADASPA_SERVER": service.url}).run()
    assert ran[:5] == ["Start", "Submit", "Wait", "Look", "Still at it?"] and ran[-1] == "Download"
    assert set(ran) == set(json.loads(text)["connections"]) | {"Download"}, "every node has run"
    assert content == FILES["video"][2]
    (video,) = service.http.get("/videos").json()["data"]
    again, _ = Workflow(text, SERVER | {"ADASPA_SERVER": service.url}).run()
    assert len(service.http.get("/videos").json()["data"]) == 1, "an execution that n8n repeats makes no second video"
    assert (again[-1], video["seed"]) == ("Download", 7)


def test_the_script_makes_a_video(service: Service, tmp_path: Any) -> None:
    env = os.environ | SERVER | {"ADASPA_SERVER": service.url}
    command = [EXAMPLES / "http" / "generate.sh", tmp_path / "out.mp4"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert (tmp_path / "out.mp4").read_bytes() == FILES["video"][2]
    assert service.http.get(f"/videos/{done.stdout.strip()}").json()["metadata"] == {"run": "17"}
