"""The manifests say of one runner, its probes, its rights and its end what the daemon needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsqlcdc.config import lint, load

from ..docs.reading import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAY = KUBERNETES / "overlays" / "example"


def read(path: Path) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return made


def pod() -> dict[str, Any]:
    found: dict[str, Any] = read(KUBERNETES / "base" / "deployment.yaml")["spec"]["template"]["spec"]
    return found


def test_there_is_one_runner_and_the_old_one_ends_first() -> None:
    spec = read(KUBERNETES / "base" / "deployment.yaml")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 30  # how long SIGTERM drains


def test_liveness_is_being_there_and_readiness_is_progress() -> None:
    (container,) = pod()["containers"]
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    (port,) = container["ports"]
    config = load(OVERLAY / "config.yaml", {})
    assert config.http is not None
    assert config.http.listen == f"0.0.0.0:{port['containerPort']}"


def test_the_pod_is_nobody_and_may_nothing() -> None:
    found = pod()
    (container,) = found["containers"]
    assert found["securityContext"]["runAsNonRoot"]
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    wanted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    assert container["securityContext"] == wanted
    assert f"USER {found['securityContext']['runAsUser']}:" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert found["serviceAccountName"] == read(KUBERNETES / "base" / "serviceaccount.yaml")["metadata"]["name"]


def test_no_state_is_lost_with_the_pod() -> None:
    assert lint(OVERLAY / "config.yaml", {}) == []
    config = load(OVERLAY / "config.yaml", {})
    assert (config.state.type, config.dead_letters.type, config.fragments.type) == ("dynamodb", "s3", "s3")


def test_every_file_of_the_kustomizations_is_there_and_every_file_is_named() -> None:
    for folder in (KUBERNETES / "base", OVERLAY):
        made = read(folder / "kustomization.yaml")
        named = [*made["resources"], *(patch["path"] for patch in made.get("patches", ()))]
        named += [file for generator in made.get("configMapGenerator", ()) for file in generator["files"]]
        assert [name for name in named if not (folder / name).exists()] == []
        assert {path.name for path in folder.glob("*.yaml")} == {name for name in named if name.endswith(".yaml")} | {"kustomization.yaml"}


def builder() -> list[str]:
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    pytest.skip("NOT RUN: there is neither kustomize nor kubectl, so the overlay was not built")


def test_the_overlay_builds_and_the_pod_gets_what_it_says() -> None:
    said = subprocess.run([*builder(), str(OVERLAY)], capture_output=True, text=True, check=True)
    made = {one["kind"]: one for one in yaml.safe_load_all(said.stdout)}
    assert made.keys() == {"ServiceAccount", "ConfigMap", "Service", "Deployment", "PodDisruptionBudget"}
    assert {one["metadata"]["namespace"] for one in made.values()} == {"dsqlcdc"}
    assert made["ConfigMap"]["data"]["config.yaml"] == (OVERLAY / "config.yaml").read_text(encoding="utf-8")
    spec = made["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    image = read(OVERLAY / "kustomization.yaml")["images"][0]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"
    # Named by its content: another config is another pod.
    assert made["ConfigMap"]["metadata"]["name"] in [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
    assert "AWS_REGION" in {variable["name"] for variable in container["env"]}
    assert "eks.amazonaws.com/role-arn" in made["ServiceAccount"]["metadata"]["annotations"]


def test_a_selector_finds_the_pods() -> None:
    labels = read(KUBERNETES / "base" / "deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    for name in ("deployment", "poddisruptionbudget"):
        assert read(KUBERNETES / "base" / f"{name}.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert read(KUBERNETES / "base" / "service.yaml")["spec"]["selector"] == labels


def test_a_drain_of_the_node_is_not_blocked() -> None:
    spec = read(KUBERNETES / "base" / "poddisruptionbudget.yaml")["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
