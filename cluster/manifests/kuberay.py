"""Kubernetes manifests for KubeRay's operator.

Invariant: they hold the resolved configuration and no secret; keys of endpoints are named, and
Kubernetes reads them from a Secret.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from cluster.manifests.shape import Node, Shape, shape_of
from cluster.submission import config_text, job_id
from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.errors import UsageError
from r2v_dist.object_storage import mirror
from r2v_dist.object_storage.object_store import variables_of

API = "ray.io/v1"
SECRET = "r2v-keys"
"""Name of the Secret with the keys of endpoints."""
_CONFIG_FOLDER = "/etc/r2v"
_CONFIG_FILE = "run.yaml"
_HEAD_CPUS = 4
_HEAD_GIB = 16
_GPU = "nvidia.com/gpu"

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kubernetes:
    """What the configuration of a run does not say."""

    image: str
    claim: str
    """PersistentVolumeClaim (ReadWriteMany) with the run directory, where that is a path."""
    node: Node
    deadline_s: int
    retries: int
    keep_s: int


def ray_job(config: RunConfig | SimulatedConfig, place: Kubernetes) -> str:
    """A ConfigMap and the RayJob that runs it, as YAML. A retry is a new cluster, which resumes."""
    name = job_id(config)
    spec = {
        "entrypoint": f"python -m r2v_dist.cli run {_CONFIG_FOLDER}/{_CONFIG_FILE}",
        "submissionMode": "K8sJobMode",
        "backoffLimit": place.retries,
        "activeDeadlineSeconds": place.deadline_s,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": place.keep_s,
        "rayClusterSpec": _cluster(config, place, name),
    }
    job = {"apiVersion": API, "kind": "RayJob", "metadata": _metadata(name), "spec": spec}
    return _documents(_config_map(config, name), job)


def ray_cluster(config: RunConfig | SimulatedConfig, place: Kubernetes) -> str:
    """A RayCluster that the run fits on, as YAML, for `r2v submit`."""
    name = job_id(config)
    return _documents(
        {
            "apiVersion": API,
            "kind": "RayCluster",
            "metadata": _metadata(name),
            "spec": _cluster(config, place, ""),
        }
    )


def _cluster(
    config: RunConfig | SimulatedConfig, place: Kubernetes, config_map: str
) -> dict[str, Any]:
    """The spec of the cluster. `config_map` is mounted on the head, where the driver runs."""
    shape = shape_of(config, place.node)
    head = _container("head", config, place, _HEAD_CPUS, _HEAD_GIB, 0)
    volumes = _volumes(config, place)
    mounted = [*volumes]
    if config_map:
        head["volumeMounts"].append({"name": "config", "mountPath": _CONFIG_FOLDER})
        mounted.append({"name": "config", "configMap": {"name": config_map}})
    return {
        "rayVersion": importlib.metadata.version("ray"),
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": {"spec": {"containers": [head], "volumes": mounted}},
        },
        "workerGroupSpecs": _groups(config, place, shape, volumes),
    }


def _groups(
    config: RunConfig | SimulatedConfig,
    place: Kubernetes,
    shape: Shape,
    volumes: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    groups = []
    if shape.gpu_nodes:
        node = place.node
        worker = _container("worker", config, place, node.cpus, node.memory_gib, shape.gpus)
        groups.append(_group("gpu", shape.gpu_nodes, worker, volumes))
    if shape.cpu_nodes:
        worker = _container("worker", config, place, place.node.cpus, shape.memory_gib, 0)
        groups.append(_group("cpu", shape.cpu_nodes, worker, volumes))
    return groups


def _group(
    name: str, count: int, container: dict[str, Any], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [container], "volumes": volumes}
    if _GPU in container["resources"]["limits"]:
        spec["tolerations"] = [{"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "groupName": name,
        "replicas": count,
        "minReplicas": count,
        "maxReplicas": count,
        "rayStartParams": {},
        "template": {"spec": spec},
    }


def _container(
    name: str,
    config: RunConfig | SimulatedConfig,
    place: Kubernetes,
    cpus: int,
    memory_gib: int,
    gpus: int,
) -> dict[str, Any]:
    """Requests are limits, so that no neighbour takes what Ray counts on."""
    resources: dict[str, str | int] = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    if gpus:
        resources[_GPU] = gpus
    mounts = [
        {"name": volume["name"], "mountPath": _mount(config)} for volume in _volumes(config, place)
    ]
    return {
        "name": f"ray-{name}",
        "image": place.image,
        "env": [_secret(variable) for variable in _keys(config)] + _storage(config),
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": mounts,
    }


def _volumes(config: RunConfig | SimulatedConfig, place: Kubernetes) -> list[dict[str, Any]]:
    if mirror.of(config.run_dir):
        return []
    if not place.claim:
        raise UsageError(
            f"--claim: run_dir = {config.run_dir} is a path; name the PersistentVolumeClaim "
            f"(ReadWriteMany) that holds it, for example --claim r2v-shared"
        )
    return [{"name": "shared", "persistentVolumeClaim": {"claimName": place.claim}}]


def _mount(config: RunConfig | SimulatedConfig) -> str:
    """The claim is mounted on the first folder of the run directory."""
    parts = PurePosixPath(config.run_dir).parts
    return str(PurePosixPath(*parts[:2]))


def _keys(config: RunConfig | SimulatedConfig) -> list[str]:
    """Environment variables with the keys of the endpoints that the run asks."""
    if isinstance(config, SimulatedConfig):
        return []
    models = [config.slm, config.teacher]
    if config.verifier is not None and config.verifier.judge is not None:
        models.append(config.verifier.judge)
    return sorted({model.api_key_env for model in models if model.backend == "openai"})


def _secret(variable: str) -> dict[str, Any]:
    reference = {"name": SECRET, "key": variable}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _storage(config: RunConfig | SimulatedConfig) -> list[dict[str, Any]]:
    """Where the store of a run's address is, and its keys, as far as the Secret has them."""
    if not mirror.of(config.run_dir):
        return []
    secrets = [_secret(variable) for variable in variables_of(mirror.shown(config.run_dir))]
    for secret in secrets:
        secret["valueFrom"]["secretKeyRef"]["optional"] = True
    return secrets


def _config_map(config: RunConfig | SimulatedConfig, name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(name),
        "data": {_CONFIG_FILE: config_text(config)},
    }


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {"app.kubernetes.io/name": "r2v"}}


def _documents(*manifests: Manifest) -> str:
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out instead of by alias, and texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
