"""The operators that the fault sequences compare."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from kubernetes.client import models as k8s

from operators.distributed_training import DistributedTrainingOperator
from operators.gpu_training_pod import GpuTrainingPodOperator
from tests.kubernetes.world import MODEL, snapshot_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from include.training.job import Job

RETRIES = 3
_GPU = "nvidia.com/gpu"
_RETRY_DELAY = timedelta(seconds=30)
_EXECUTION_TIMEOUT = timedelta(minutes=15)
"""Of what a worker does, as `dags/train.py` has it."""


def _dag() -> DAG:
    return DAG("train_flight_delays", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))


def plain(job: Job) -> BaseOperator:
    """Return KubernetesPodOperator as a careful author writes it for a training on spot nodes.

    Deferrable, so that a restarted worker does not end the pod; time for GPU nodes to come and for large images; the
    trainer's grace to save a checkpoint; three retries. All else is as it comes: `durable`, `on_finish_action` and
    `on_kill_action` delete pods, logs at the end.
    """
    amounts = {"cpu": "4", "memory": "16Gi", _GPU: "1"}
    return KubernetesPodOperator(
        task_id="train",
        dag=_dag(),
        name="train-flight-delays",
        namespace="ml",
        kubernetes_conn_id="kubernetes_default",
        image="trainer:1",
        cmds=["python", "-m", "include.training"],
        arguments=["--job", job.uri],
        container_resources=k8s.V1ResourceRequirements(requests=amounts, limits=amounts),
        tolerations=[k8s.V1Toleration(key=_GPU, operator="Exists", effect="NoSchedule")],
        deferrable=True,
        poll_interval=10,
        schedule_timeout_seconds=1800,
        startup_timeout_seconds=900,
        termination_grace_period=60,
        log_pod_spec_on_failure=False,
        retries=RETRIES,
        retry_delay=_RETRY_DELAY,
        execution_timeout=_EXECUTION_TIMEOUT,
    )


def forgetful(job: Job) -> BaseOperator:
    """Return the same without its memory: each try starts a pod of its own, as `durable=False` promises."""
    operator = plain(job)
    operator.durable = operator.reattach_on_restart = False
    return operator


def tradewind(job: Job) -> BaseOperator:
    """Return Tradewind's operator as `dags/train.py` uses it."""
    return GpuTrainingPodOperator(
        task_id="train",
        dag=_dag(),
        model=MODEL,
        snapshot=snapshot_of(job),
        overrides=json.dumps(job.params),
        poll_interval=10,
        retries=RETRIES,
        retry_delay=_RETRY_DELAY,
        execution_timeout=_EXECUTION_TIMEOUT,
    )


def torchrun(job: Job) -> BaseOperator:
    """Return Tradewind's operator for two pods with four GPUs each, an indexed Job with a headless Service."""
    return _distributed(job, "job")


def trainjob(job: Job) -> BaseOperator:
    """Return Tradewind's operator for two pods with four GPUs each, a TrainJob of Kubeflow Trainer."""
    return _distributed(job, "trainjob")


def _distributed(job: Job, kind: Literal["job", "trainjob"]) -> BaseOperator:
    return DistributedTrainingOperator(
        task_id="train",
        dag=_dag(),
        model=MODEL,
        snapshot=snapshot_of(job),
        kind=kind,
        profile="gpu_2x4",
        overrides=json.dumps(job.params),
        poll_interval=10,
        retries=RETRIES,
        retry_delay=_RETRY_DELAY,
        execution_timeout=_EXECUTION_TIMEOUT,
    )
