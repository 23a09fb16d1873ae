"""Schemas of the manifests in deploy/, for jsonschema: what KubeRay's `ray.io/v1` and Kubernetes' core API know.

Written by hand, and compared field by field with the operator's Go types, from which its own schema is generated (a
CRD of a megabyte, nearly all of it pods): `rayjob_types.go` and `raycluster_types.go` in ray-operator/apis/ray/v1, as
of version 1.3 (commits f6ef3f7 and 3275ee0) and of 2026 (with `networkPolicy`, `tlsOptions` and `priority`), and with
the rules of its `validation.go`. Here are the fields of RayJobSpec, RayClusterSpec and the groups that both know, so
`deletionPolicy` (now `deletionStrategy`), `authOptions`, and `labels` and `resources` of groups are missing; and of
pods those that the manifests use. Every other key is refused, as `kubectl apply` with strict validation does.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
STRING, BOOLEAN, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS: Schema = {"type": "object", "additionalProperties": STRING}  # numbers and truth values must be quoted
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
# The operator makes names of services and pods of it: a label of RFC 1035, which begins with a letter.
OWN_NAME: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
MANAGER: Schema = {"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]}
QUANTITY: Schema = {"anyOf": [COUNT, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?$"}]}
ANY: Schema = {"type": "object"}  # what the manifests do not use


def fields(required: str = "", **properties: Schema) -> Schema:
    """Schema of an object that has no other keys."""
    known: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**known, "required": required.split()}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


AMOUNTS: Schema = {"type": "object", "additionalProperties": QUANTITY}
PORT = fields("containerPort", containerPort={**COUNT, "minimum": 1, "maximum": 65535}, name={**NAME, "maxLength": 15})
CONTAINER = fields(
    "name image",
    name=NAME,
    image=STRING,
    env=many(fields("name value", name=STRING, value=STRING)),
    envFrom=many(fields(secretRef=fields("name", name=NAME))),
    resources=fields(requests=AMOUNTS, limits=AMOUNTS),
    ports=many(PORT),
    volumeMounts=many(fields("name mountPath", name=NAME, mountPath=STRING, readOnly=BOOLEAN)),
)
VOLUME = fields(
    "name",
    name=NAME,
    persistentVolumeClaim=fields("claimName", claimName=NAME, readOnly=BOOLEAN),
    emptyDir=fields(sizeLimit=QUANTITY),
)
METADATA = fields(name=OWN_NAME, labels=TEXTS, annotations=TEXTS)
POD_SPEC = fields(
    "containers",
    containers=many(CONTAINER),
    volumes=many(VOLUME),
    terminationGracePeriodSeconds={**COUNT, "minimum": 1},
)
POD = fields("spec", metadata=METADATA, spec=POD_SPEC)
HEAD = fields(
    "rayStartParams template",
    rayStartParams=TEXTS,
    template=POD,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    headService=ANY,
    enableIngress=BOOLEAN,
)
WORKERS = fields(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    suspend=BOOLEAN,
    rayStartParams=TEXTS,
    template=POD,
    scaleStrategy=ANY,
)
CLUSTER = fields(
    "headGroupSpec",
    rayVersion=STRING,
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=ANY,
    headServiceAnnotations=TEXTS,
    gcsFaultToleranceOptions=ANY,
    managedBy=MANAGER,
    suspend=BOOLEAN,
    headGroupSpec=HEAD,
    workerGroupSpecs=many(WORKERS),
)
JOB = fields(
    "entrypoint rayClusterSpec",
    entrypoint=STRING,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=STRING,
    runtimeEnvYAML=STRING,
    jobId=STRING,
    metadata=TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    submitterPodTemplate=POD,
    submitterConfig=fields(backoffLimit=COUNT),
    backoffLimit=COUNT,
    activeDeadlineSeconds={**COUNT, "minimum": 1},
    shutdownAfterJobFinishes=BOOLEAN,
    ttlSecondsAfterFinished=COUNT,
    clusterSelector=TEXTS,
    suspend=BOOLEAN,
    managedBy=MANAGER,
    rayClusterSpec=CLUSTER,
)
# The operator refuses a time to live, and a suspension, of a cluster that is not shut down.
SHUT_DOWN: Schema = {
    "properties": {"shutdownAfterJobFinishes": {"const": True}}, "required": ["shutdownAfterJobFinishes"],
}  # fmt: skip
JOB["dependentSchemas"] = {"ttlSecondsAfterFinished": SHUT_DOWN, "suspend": SHUT_DOWN}


def _resource(kind: str, spec: Schema) -> Schema:
    named = {**METADATA, "required": ["name"]}
    about = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    return fields("apiVersion kind metadata spec", **about, metadata=named, spec=spec)


SCHEMAS = {"RayJob": _resource("RayJob", JOB), "RayCluster": _resource("RayCluster", CLUSTER)}
