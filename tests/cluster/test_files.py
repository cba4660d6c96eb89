"""The files in docker/: they parse, name files that exist, and open nothing that should be closed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCKER = REPOSITORY / "docker"
CLUSTERS = ["cluster-local.yaml", "cluster-aws.yaml"]


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    return content


def commands(content: dict[str, Any]) -> list[str]:
    return [command for name in content if name.endswith("_commands") for command in content[name]]


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_takes_a_cluster_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_node_starts_with_the_token(name: str) -> None:
    content = load(name)
    assert content["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in content["setup_commands"])
    started = [command for command in commands(content) if "ray start" in command]
    assert len(started) == 2
    for command in started:
        before = command[: command.index("ray start")]
        assert "export RAY_AUTH_MODE=token" in before
        assert "unset OMP_NUM_THREADS" in before
        assert ("RAY_enable_autoscaler_v2=0" in before) == ("--head" in command)
        assert "0.0.0.0" not in command


@pytest.mark.parametrize("name", [*CLUSTERS, "compose.yaml", "rayjob.yaml", "slurm.sh"])
def test_the_files_that_are_named_exist(name: str) -> None:
    text = (DOCKER / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:docker|studies)/[\w./-]+\.(?:yaml|py|txt|sh)", text))
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_compose_is_a_head_and_two_workers_and_publishes_on_loopback_alone() -> None:
    content = load("compose.yaml")
    services = content["services"]
    assert set(services) == {"head", "worker"}
    assert services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["secrets"] == ["ray_token"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    assert content["secrets"]["ray_token"]["file"].endswith("/.ray/auth_token")


def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    """The claim for results, and the job."""
    claim, job = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text(encoding="utf-8"))
    return claim, job


def test_kuberay_takes_the_job() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text(encoding="utf-8"))
    _, job = rayjob()
    jsonschema.validate(job, schema)
    for wrong in ({"entryPoint": "true"}, {"backoffLimit": "3"}):
        assert not jsonschema.Draft202012Validator(schema).is_valid(job | {"spec": job["spec"] | wrong})


def test_the_pods_of_the_job_have_a_token_the_results_and_no_rights() -> None:
    claim, job = rayjob()
    spec = job["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert f"ray=={spec['rayVersion']}" in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    (workers,) = spec["workerGroupSpecs"]
    for template in (spec["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]):
        (container,) = template["containers"]
        assert template["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        volumes = {volume["name"]: volume for volume in template["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/results"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:3] == ["python", "-m", "puzzle_study.tune"]
    assert {"/study/study.yaml", "--resume", "--address", "auto", "storage=/results"} <= set(command)


def test_the_image_copies_what_exists_is_pinned_and_does_not_run_as_root() -> None:
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    sources = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1] if word[0] != "-"]
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []
    kept = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert [source for source in sources if f"!{source}" not in kept] == []
    assert [line for line in lines if line.startswith("USER")] == ["USER puzzle"]
    first_install = next(index for index, line in enumerate(lines) if "pip install" in line)
    assert lines.index("USER puzzle") < first_install
    assert any("PIP_CONSTRAINT=/app/constraints.txt" in line for line in lines)


def test_the_pins_for_the_job_server_agree_with_the_others() -> None:
    def pins(path: Path) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                pin = Requirement(line)
                found.setdefault(pin.name.lower().replace("_", "-"), []).append(str(pin.specifier))
        return found

    ours, theirs = pins(DOCKER / "constraints-jobs.txt"), pins(REPOSITORY / "constraints.txt")
    assert [name for name, (version,) in ours.items() if version not in theirs.get(name, [version])] == []
