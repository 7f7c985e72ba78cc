"""GPU profiles: what they may say; by the scheduler's rules their pods land where they belong and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from include.errors import SetupError
from include.spec import GpuPodSpec, load_spec
from include.training.manifests import RemoteTraining, pod
from include.training.profiles import FILE, GPU, VARIABLE, Profile, profile_with, read_profiles, resolve_profile
from include.training.scheduling import REQUIRED, amount, refusals, why_no_node

if TYPE_CHECKING:
    from pathlib import Path

TRAINING = load_spec("flight_delays").training
PROFILES = read_profiles().profiles
ANY: dict[str, Any] = {"description": "for a test", "image": "trainer:1"}


def test_an_image_may_name_the_commit_of_the_job() -> None:
    profile = Profile.model_validate(ANY | {"image": "registry/trainer:{commit}"})
    assert profile.for_commit("abc-dirty-1+models-2").image == "registry/trainer:abc-dirty-1-models-2"
    assert Profile.model_validate(ANY).for_commit("abc").image == "trainer:1"
    assert all("{commit}" in shipped.image for shipped in read_profiles().profiles.values())


GPU_TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}
SPOT_TAINT = {"key": "tradewind/spot", "value": "true", "effect": "NoSchedule"}


def node(*taints: dict[str, str], labels: dict[str, str] | None = None, **amounts: str) -> dict[str, Any]:
    """Return a node as the API writes it."""
    allocatable = {"cpu": "64", "memory": "512Gi"} | {name.replace("__", "/"): n for name, n in amounts.items()}
    return {
        "metadata": {"labels": labels or {}},
        "spec": {"taints": list(taints)},
        "status": {"allocatable": allocatable},
    }


def gpu_node(resource: str = GPU, num: str = "8", *taints: dict[str, str], **labels: str) -> dict[str, Any]:
    found = node(GPU_TAINT, *taints, labels={"nvidia.com/gpu.present": "true"} | labels)
    found["status"]["allocatable"][resource] = num
    return found


CPU_NODE = node()
NODES = {
    "cpu": [],
    "gpu": [gpu_node()],
    "gpu_spot": [gpu_node(GPU, "8", SPOT_TAINT, **{"tradewind/spot": "true"})],
    "gpu_mig": [gpu_node("nvidia.com/mig-1g.10gb", "7", **{"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"})],
    "gpu_slice": [gpu_node("nvidia.com/gpu.shared", "10")],
    "gpu_4": [gpu_node()],
    "gpu_2x4": [gpu_node()],
}
"""Profile -> a cluster's GPU nodes that can take it."""


def spec_of(profile: Profile) -> dict[str, Any]:
    training = RemoteTraining(name="train-a", labels={}, profile=profile, job_uri="s3://a/job.json", deadline_s=60)
    found: dict[str, Any] = pod(training)["spec"]
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_work_without_gpus_never_lands_on_a_node_that_has_them(name: str) -> None:
    profile = PROFILES[name]
    if profile.num_gpus:
        return
    for nodes in NODES.values():
        for found in nodes:
            assert refusals(spec_of(profile), found)
            untainted = found | {"spec": {}}
            assert refusals(spec_of(profile), untainted) == ("affinity: nvidia.com/gpu.present DoesNotExist",)
    assert refusals(spec_of(profile), CPU_NODE) == ()


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.num_gpus])
def test_a_gpu_pod_needs_its_toleration_and_finds_its_node(name: str) -> None:
    spec = spec_of(PROFILES[name])
    assert why_no_node(spec, [CPU_NODE, *NODES[name]]) == ()
    intolerant = spec | {"tolerations": [found for found in spec["tolerations"] if found["key"] != GPU]}
    for found in NODES[name]:
        assert f"taint {GPU} is not tolerated" in refusals(intolerant, found)
    assert refusals(spec, CPU_NODE)


def test_a_spot_pod_stays_off_other_nodes_and_others_stay_off_spot_nodes() -> None:
    (spot,) = NODES["gpu_spot"]
    assert refusals(spec_of(PROFILES["gpu"]), spot) == ("taint tradewind/spot is not tolerated",)
    assert refusals(spec_of(PROFILES["gpu_spot"]), gpu_node()) == ("no label tradewind/spot=true",)


def test_a_profile_that_no_node_can_satisfy_says_what_is_missing() -> None:
    large = Profile.model_validate(PROFILES["gpu"].model_dump() | {"num_gpus": 16, "gpu_kind": "NVIDIA-B200"})
    found = why_no_node(spec_of(large), [CPU_NODE, gpu_node(), gpu_node()])
    assert "2 of 3 nodes: nvidia.com/gpu: asked for 16, has 8" in found
    assert "3 of 3 nodes: no label nvidia.com/gpu.product=NVIDIA-B200" in found
    assert why_no_node(spec_of(large), []) == ("the cluster has no nodes",)


def test_affinity_is_read_as_the_scheduler_reads_it() -> None:
    zone = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone]}}
    spec = spec_of(Profile(**ANY, node_affinity=affinity))
    assert refusals(spec, node(labels={"zone": "b"})) == ()
    assert "affinity: zone In a b" in refusals(spec, node(labels={"zone": "c"}))


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("250m", 0.25), ("1k", 1000), ("1Ki", 1024), ("1.5Gi", 1.5 * 2**30), ("2G", 2e9)]
)
def test_amounts_are_read_as_kubernetes_writes_them(text: str, number: float) -> None:
    assert amount(text) == pytest.approx(number)


GPUS = [{"key": GPU}]
SHARES = ("time_slice", "mig-1g.10gb")
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def required(**requirement: object) -> dict[str, Any]:
    """Return a profile's affinity that requires one thing."""
    return {"node_affinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_gpus": 1}, "must tolerate nvidia.com/gpu"),
        ({"tolerations": [{"key": GPU}]}, "without GPUs must not tolerate"),
        ({"gpu_share": "mig-1g.10gb"}, "without GPUs must not"),
        ({"num_gpus": 1, "tolerations": [{"key": GPU, "effect": "NoExecute"}]}, "must tolerate"),
        ({"is_spot": True}, "names the spot nodes"),
        ({"memory": "16 GB"}, "memory"),
        ({"gpu_share": "half"}, "gpu_share"),
        ({"security": {"run_as_user": 0}}, "run_as_user"),
        ({"num_pod": 2}, "num_pod"),
        *(({"num_gpus": 2, "gpu_share": share, "tolerations": GPUS}, "num_gpus must be 1") for share in SHARES),
        ({"tolerations": [{"key": "spot", "value": "true"}]}, "Equal needs a value and Exists has none; got Exists"),
        ({"tolerations": [{"key": "spot", "operator": "Equal"}]}, "Equal needs a value"),
        ({"tolerations": [{"key": "", "operator": "Exists"}]}, r"tolerations\.0\.key"),
        ({"tolerations": [{"key": "spot", "operator": "Equal", "value": "a b"}]}, r"tolerations\.0\.value"),
        ({"cpu": "0"}, r"cpu\n.*must be more than 0"),
        ({"cpu": "4Gi"}, "cpu"),
        ({"cpu": "0.0005"}, "cpu"),
        ({"memory": "16000ki"}, "memory"),
        ({"memory": "16000m"}, "memory"),
        ({"disk": "0Gi"}, r"disk\n.*must be more than 0"),
        (
            {"memory": "4Gi", "shared_memory": "8Gi"},
            r"shared_memory must not exceed memory \(4Gi\), as which it counts; got 8Gi",
        ),
        ({"image": ""}, "image"),
        ({"namespace": "Not_a_ns"}, "namespace"),
        ({"namespace": "a.b"}, "namespace"),
        ({"queue": "A b"}, "queue"),
        ({"queue": "a" * 64}, "queue"),
        ({"priority_class": "High"}, "priority_class"),
        ({"service_account": ""}, "service_account"),
        ({"env_secret": "tradewind_lake"}, "env_secret"),
        ({"image_pull_secret": "-registry"}, "image_pull_secret"),
        ({"runtime": "torch distributed"}, "runtime"),
        ({"node_selector": {"zone": "a b"}}, r"node_selector\.zone"),
        ({"node_selector": {"a/b/c": "d"}}, "node_selector"),
        ({"node_affinity": {"nodeAffinity": {}}, "is_spot": True}, r"node_affinity\.nodeAffinity\n.*Extra inputs"),
        ({"node_affinity": {PREFERRED: [{"weight": 1, "preference": {}}]}, "is_spot": True}, "that is required"),
        ({"node_affinity": {PREFERRED: [{"weight": 0, "preference": {}}]}}, "weight"),
        ({"node_affinity": {REQUIRED: [{}]}}, "node_affinity"),
        ({"node_affinity": {REQUIRED: {"nodeSelectorTerms": []}}}, "at least 1 item"),
        (required(key="zone", operator="in", values=["a"]), "operator"),
        (required(key="zone", operator="In"), "In needs one or more in values"),
        (required(key="zone", operator="Exists", values=["a"]), "Exists needs none in values"),
        (required(key="cores", operator="Gt", values=["many"]), "Gt needs one whole number in values"),
        (required(key="zone", operator="In", values="a"), "values"),
        (required(key="zone", operator="In", value=["a"]), "Extra inputs"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_an_impossible_profile_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Profile.model_validate(ANY | wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"tolerations": [{"key": "spot", "operator": "Equal", "value": "true"}]},
        {"tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Equal", "value": ""}]},
        {"cpu": "500m", "memory": "8Gi", "disk": "1.5T"},
        {"cpu": "0.5", "memory": "16000Ki", "shared_memory": "1000k"},
        {"queue": "team-a.gpus", "namespace": "team-a", "env_secret": "lake.v2"},
        required(key="cores", operator="Gt", values=["8"]),
        required(key="zone", operator="DoesNotExist"),
        {"is_spot": True, **required(key="spot", operator="Exists")},
    ],
)
def test_a_possible_profile_makes_a_valid_pod(right: dict[str, Any]) -> None:
    training = RemoteTraining(
        name="train-a", labels={}, profile=Profile.model_validate(ANY | right), job_uri="s3://a", deadline_s=60
    )
    kubernetes_validate.validate(pod(training), "1.37", strict=True)


def test_a_model_names_its_profile_or_takes_the_default() -> None:
    assert resolve_profile(TRAINING) == PROFILES["gpu"]
    assert resolve_profile(TRAINING.model_copy(update={"profile": "gpu_spot"})) == PROFILES["gpu_spot"]
    assert resolve_profile(TRAINING, name="cpu") == PROFILES["cpu"]
    with pytest.raises(SetupError, match=r"profile 'gpu_sport' must be in profiles\.yaml; .* Did you mean 'gpu_spot'"):
        resolve_profile(TRAINING, name="gpu_sport")


def test_a_model_may_have_fields_of_its_own() -> None:
    own = GpuPodSpec(image="mine:1", num_gpus=2, schedule_timeout_s=60)
    found = resolve_profile(TRAINING.model_copy(update={"pod": own}))
    assert (found.image, found.num_gpus, found.pending_s) == ("mine:1", 2, 60)
    assert found.memory == PROFILES["gpu"].memory
    without = resolve_profile(TRAINING.model_copy(update={"pod": GpuPodSpec(num_gpus=0)}))
    assert without == PROFILES["cpu"]
    with pytest.raises(SetupError, match=r"profile 'cpu' with the model's training\.pod must be possible"):
        resolve_profile(TRAINING.model_copy(update={"pod": own}), name="cpu")


@pytest.mark.parametrize(
    ("profile", "own", "shared_memory"),
    [
        ("cpu", {"memory": "4Gi"}, "4Gi"),
        ("gpu", {"memory": "6Gi"}, "6Gi"),
        ("gpu", {"memory": "64Gi"}, "8Gi"),
        ("gpu_4", {"memory": "16Gi"}, "16Gi"),
        ("gpu_4", {"memory": "128Gi"}, "32Gi"),
        ("gpu_4", {"memory": "16Gi", "shared_memory": "1Gi"}, "1Gi"),
    ],
)
def test_less_memory_leaves_less_to_be_shared(profile: str, own: dict[str, Any], shared_memory: str) -> None:
    training = TRAINING.model_copy(update={"pod": GpuPodSpec(**own)})
    found = resolve_profile(training, name=profile)
    assert (found.memory, found.shared_memory) == (own["memory"], shared_memory)
    assert found.tolerations == PROFILES[profile].tolerations


def test_a_profile_may_name_its_memory_alone() -> None:
    assert Profile.model_validate(ANY | {"memory": "4Gi"}).shared_memory == "4Gi"
    with pytest.raises(SetupError, match=r"shared_memory must not exceed memory \(4Gi\), as which it counts; got 8Gi"):
        profile_with("cpu", own=GpuPodSpec(memory="4Gi", shared_memory="8Gi"))
    with pytest.raises(SetupError, match=r"got memory: [^;]+\. Nothing new was started"):
        profile_with("cpu", own=GpuPodSpec(memory="4 GB"))


def test_a_file_of_ones_own_takes_the_place_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "profiles.yaml"
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(SetupError, match=r"GPU profiles must be in .*profiles\.yaml; got .*No such file"):
        read_profiles()
    ours = yaml.safe_load(FILE.read_text())
    path.write_text(yaml.safe_dump(ours | {"default": "mine"}))
    with pytest.raises(SetupError, match="profile 'mine' must be in"):
        read_profiles()
    ours["profiles"]["gpu"]["num_gpu"] = 1
    path.write_text(yaml.safe_dump(ours))
    with pytest.raises(SetupError, match=r"profiles\.gpu\.num_gpu: Extra inputs"):
        read_profiles()
    path.write_text("profiles: [")
    with pytest.raises(SetupError, match="must hold GPU profiles"):
        read_profiles()


@pytest.mark.parametrize(
    ("share", "resource"),
    [("whole", GPU), ("time_slice", "nvidia.com/gpu.shared"), ("mig-2g.20gb", "nvidia.com/mig-2g.20gb")],
)
def test_a_share_of_a_gpu_is_a_resource_of_its_own(share: str, resource: str) -> None:
    profile = Profile(**ANY, num_gpus=1, gpu_share=share, tolerations=({"key": GPU},))  # type: ignore[arg-type]
    limits = spec_of(profile)["containers"][0]["resources"]["limits"]
    assert limits[resource] == "1"
