"""Job files for cluster engines. Owns: their text, which is `deploy/` as generated from `deploy/cluster.toml`.

Does not: write files or talk to an engine. Each engine starts the same command on every node; who is who it says in
the environment (resolution.py).
"""

import math
import textwrap

from cluster.cluster_config import COORDINATOR_PORT, ClusterConfig
from cluster.config import parse_address

_END_S = 30


def slurm(config: ClusterConfig) -> str:
    """A batch script: one task per node, each the launcher of its node."""
    return f"""\
#!/bin/bash
# Made by `lorajax launch --config {config.file.name} --emit slurm`. With the environment that has lorajax active:
#   sbatch slurm.sh [CONFIG]
# Every node must see CONFIG, the model and the adapters. Without GPUs delete the line that asks for them.
#SBATCH --job-name=lorajax
#SBATCH --nodes={num_nodes(config)}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={_devices_per_node(config)}
#SBATCH --exclusive
#SBATCH --signal=TERM@{_grace_s(config)}
#SBATCH --output=%x-%j.log
set -euo pipefail

# One launcher per node; when one of them gives up, the job ends.
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 --unbuffered \\
    lorajax launch --config "${{1:-{config.file.name}}}"
"""


def leader_worker_set(config: ClusterConfig, image: str) -> str:
    """Kubernetes: a group of pods, one per node, a service in front, and the configuration.

    Raises: ValueError where the service could not know a port.
    """
    if num_nodes(config) == 1 and config.gateway is None:
        raise ValueError('cluster.gateway is missing: name its port for the service, such as "0.0.0.0:50053"')
    toml = textwrap.indent(config.file.read_text(encoding="utf-8").rstrip(), "    ")
    return f"""\
# Made by `lorajax launch --config {config.file.name} --emit lws`. Needs the LeaderWorkerSet controller.
# Model and adapters come from the volume claim "lorajax-models". Without GPUs delete the limits that ask for them.
apiVersion: v1
kind: ConfigMap
metadata:
  name: lorajax-config
data:
  cluster.toml: |
{toml}
---
apiVersion: v1
kind: Service
metadata:
  name: lorajax-clients
spec:
  selector:
    leaderworkerset.sigs.k8s.io/name: lorajax
    leaderworkerset.sigs.k8s.io/worker-index: "0"
  ports:
    - name: grpc
      port: {COORDINATOR_PORT}
      targetPort: {gateway_port(config)}
{_http_port(config)}---
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: lorajax
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: {num_nodes(config)}
    # The launcher brings back what dies; the other pods go on meanwhile.
    restartPolicy: "None"
    leaderTemplate:
      metadata:
        labels:
          app: lorajax
      spec:
{_pod(config, image, is_leader=True)}
    workerTemplate:
      metadata:
        labels:
          app: lorajax
      spec:
{_pod(config, image, is_leader=False)}
"""


def num_nodes(config: ClusterConfig) -> int:
    """As many as the file names, else one per process."""
    return len(config.nodes) or config.num_processes


def gateway_port(config: ClusterConfig) -> int:
    """Where clients are answered, as launch_plan.py chooses it on several nodes."""
    if config.gateway is not None:
        return parse_address(config.gateway)[1]
    return parse_address(config.coordinator)[1] + 2


def _http_port(config: ClusterConfig) -> str:
    if config.http is None:
        return ""
    port = parse_address(config.http)[1]
    return f"""\
    - name: http
      port: {port}
      targetPort: {port}
"""


def _devices_per_node(config: ClusterConfig) -> int:
    return math.ceil(config.num_processes / num_nodes(config)) * config.devices_per_process


def _grace_s(config: ClusterConfig) -> int:
    """Gateway and hosts may each drain, then everything ends."""
    return math.ceil(2 * config.drain_s) + _END_S


def _pod(config: ClusterConfig, image: str, *, is_leader: bool) -> str:
    probe = f"""\
    readinessProbe:
      grpc:
        port: {gateway_port(config)}
      periodSeconds: 5
"""
    spec = f"""\
terminationGracePeriodSeconds: {_grace_s(config)}
containers:
  - name: lorajax
    image: {image}
    command: [lorajax, launch, --config, /etc/lorajax/cluster.toml]
    env:
      - {{name: XDG_STATE_HOME, value: /state}}
    resources:
      limits:
        nvidia.com/gpu: {_devices_per_node(config)}
{probe if is_leader else ""}\
    volumeMounts:
      - {{name: config, mountPath: /etc/lorajax}}
      - {{name: models, mountPath: /models, readOnly: true}}
      - {{name: state, mountPath: /state}}
      - {{name: shared-memory, mountPath: /dev/shm}}
volumes:
  - {{name: config, configMap: {{name: lorajax-config}}}}
  - {{name: models, persistentVolumeClaim: {{claimName: lorajax-models}}}}
  # Registrations and logs. Only a claim in place of emptyDir survives the pod.
  - {{name: state, emptyDir: {{}}}}
  - {{name: shared-memory, emptyDir: {{medium: Memory}}}}"""
    return textwrap.indent(spec, "        ")
