"""What Kubernetes and Slurm are given: valid by KubeRay's own schema, and with the resources that
the configuration asks for.
"""

import gzip
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.manifests.shape import Node, gpus_of, packed, shape_of
from cluster.submission import job_id
from r2v_dist.cli.main import main
from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from tests.runs import ROOT

CLUSTER = ROOT / "configs" / "textworld_qwen_cluster.yaml"
PURE = ROOT / "configs" / "simulated.yaml"
DATA_DIR = os.environ.get("R2V_DATA_DIR", "")


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main(["manifests", *map(str, arguments)])
    return capsys.readouterr().out


@pytest.fixture(scope="session")
def schemas() -> dict[str, dict[str, Any]]:
    """KubeRay's schemas of version v1, by kind."""
    folder = Path(DATA_DIR) / "kuberay"
    if not DATA_DIR or not folder.is_dir():
        pytest.skip("R2V_DATA_DIR does not name a directory with KubeRay's schemas")
    found = {}
    for path in folder.glob("*.yaml.gz"):
        spec = yaml.load(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)["spec"]
        [version] = [version for version in spec["versions"] if version["name"] == "v1"]
        found[spec["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    return found


def strict(schema: Any) -> Any:
    """The schema in the words of JSON Schema, where a key that it does not know is an error and
    not, as for Kubernetes, dropped.
    """
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kube")}
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        out["additionalProperties"] = False
    if out.get("format") in ("int32", "int64"):
        out.pop("format")
    return out


def check(manifest: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> None:
    schema = schemas[manifest["kind"]]
    # Kubernetes knows what metadata may hold; the schema only says that it is an object.
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft202012Validator(schema).validate(manifest)


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_makes_manifests_that_kuberay_takes(
    config: Path, schemas: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("job", "cluster"):
        text = printed(capsys, "kuberay", config, "run_dir=/shared/x", "--kind", kind)
        *_, manifest = yaml.safe_load_all(text)
        check(manifest, schemas)


def test_the_schema_refuses_a_key_that_kuberay_does_not_know(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, job = yaml.safe_load_all(printed(capsys, "kuberay", CLUSTER))
    job["spec"]["backOffLimit"] = 3
    with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
        check(job, schemas)
    del job["spec"]["backOffLimit"]
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["volumes"] = [{}]
    with pytest.raises(jsonschema.ValidationError, match="'name' is a required property"):
        check(job, schemas)


def test_a_job_runs_the_resolved_configuration_and_begins_again_after_a_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config, job = yaml.safe_load_all(printed(capsys, "kuberay", CLUSTER, "seed=7", "--retries=2"))
    file = tmp_path / "run.yaml"
    file.write_text(config["data"]["run.yaml"])
    there = load_config(file, [])
    assert there == load_config(CLUSTER, ["seed=7"])
    assert job_id(there) == config["metadata"]["name"] == job["metadata"]["name"]
    spec = job["spec"]
    assert spec["entrypoint"] == "python -m r2v_dist.cli run /etc/r2v/run.yaml"
    assert (spec["backoffLimit"], spec["submissionMode"]) == (2, "K8sJobMode")
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] == 3600
    assert spec["activeDeadlineSeconds"] == 72 * 3600
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert mounts == {"shared": "/shared", "config": "/etc/r2v"}


def test_nodes_are_those_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["cluster.runners=33", "bc.deepspeed.ranks=16", "bc.batch_size=128"]
    _, job = yaml.safe_load_all(printed(capsys, "kuberay", CLUSTER, *asked))
    gpu, cpu = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (gpu["replicas"], cpu["replicas"]) == (2, 3)
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    _, job = yaml.safe_load_all(printed(capsys, "kuberay", PURE, "run_dir=/shared/x"))
    [group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["groupName"], group["replicas"]) == ("cpu", 1)


def test_a_run_at_an_address_needs_no_claim(capsys: pytest.CaptureFixture[str]) -> None:
    config, job = yaml.safe_load_all(
        printed(capsys, "kuberay", CLUSTER, "run_dir=s3://bucket/run", "--claim=")
    )
    assert yaml.safe_load(config["data"]["run.yaml"])["run_dir"] == "s3://bucket/run"
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        spec = group["template"]["spec"]
        assert spec["volumes"] == []
        [container] = spec["containers"]
        named = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
        assert named["AWS_SECRET_ACCESS_KEY"]["optional"]


def test_keys_of_endpoints_are_named_and_never_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_API_KEY", "very-secret")
    text = printed(capsys, "kuberay", CLUSTER)
    assert "very-secret" not in text
    assert "key: TEACHER_API_KEY" in text


@pytest.mark.parametrize(
    ("shares", "gpus"),
    [([], 0), ([0.6, 0.3], 1), ([0.85, 0.85], 2), ([0.6, 0.6, 0.3, 0.3], 2), ([4, 0.3], 5)],
)
def test_shares_are_packed_on_whole_gpus(shares: list[float], gpus: int) -> None:
    assert packed(shares) == gpus


def test_an_engine_that_no_node_holds_is_refused() -> None:
    assert gpus_of(load_config(CLUSTER, [])) == 8
    one_each = ["slm.replicas=1", "verifier.replicas=1"]
    config = load_config(CLUSTER, ["slm.tensor_parallel=8", *one_each])
    assert gpus_of(config) == 9
    assert shape_of(config, Node(gpus=8)).gpu_nodes == 2
    with pytest.raises(UsageError, match=r"^8 GPUs on one node .* --gpus-per-node = 4"):
        shape_of(config, Node(gpus=4))
    pipeline = ["slm.tensor_parallel=4", "slm.pipeline_parallel=2", *one_each]
    assert shape_of(load_config(CLUSTER, pipeline), Node(gpus=4)).gpu_nodes == 3


@pytest.mark.parametrize("command", ["kuberay", "slurm"])
def test_a_relative_run_directory_is_refused(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["manifests", command, str(PURE)])
    assert "run_dir = runs/simulated" in capsys.readouterr().err


def test_the_batch_script_is_bash_and_asks_for_what_the_configuration_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = printed(capsys, "slurm", CLUSTER, "name='a b'", "--hours=2", "--option=--account=x")
    options = set(re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE))
    assert {"--nodes=2", "--gpus-per-node=8", "--time=120", "--account=x"} <= options
    assert {"--requeue", "--signal=B:TERM@120", "--exclusive"} <= options
    assert f"run {CLUSTER} 'name='\"'\"'a b'\"'\"''" in script
    file = tmp_path / "job.sh"
    file.write_text(script)
    subprocess.run(["bash", "-n", file], check=True)


def test_the_container_has_every_package_and_file_of_the_project() -> None:
    text = (ROOT / "cluster" / "Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    for source in copied:
        assert list(ROOT.glob(source)), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= set(copied)
    assert "constraints*.txt" in copied
