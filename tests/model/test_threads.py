"""Threads of torch: as many as there are processors for this process; and memory that goes back."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import torch
from PIL import Image

from vision_agent import ConfigError, VisionAgent
from vision_agent.batch.load_agent import load_agent
from vision_agent.model import threads as policy
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, load_backbone

PHOTO = Image.new("RGB", (64, 48), "green")


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def written(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    return root


DOCKER_1 = "12:cpuset:/docker/5f\n4:cpu,cpuacct:/docker/5f\n1:name=systemd:/docker/5f\n"
KUBERNETES = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cri-containerd-9.scope\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),  # no cgroups: another system
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        # docker run --cpus=2 with its own namespace of cgroups, and --cpus=1.5, 0.5
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
        # the container's own group and the pod's above it: the smaller one counts
        (
            {
                "proc/self/cgroup": KUBERNETES,
                f"sys/fs/cgroup{KUBERNETES[3:].strip()}/cpu.max": "max 100000",
                "sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cpu.max": "300000 100000",
            },
            3,
        ),
        # a path from outside, of which the container sees the mount alone
        ({"proc/self/cgroup": "0::/../../docker/ab\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        # the older cgroups, the path seen and not seen; -1 is no quota
        (
            {
                "proc/self/cgroup": DOCKER_1,
                "sys/fs/cgroup/cpu,cpuacct/docker/5f/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/5f/cpu.cfs_period_us": "50000\n",
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": DOCKER_1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": DOCKER_1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        # nonsense is no quota
        ({"proc/self/cgroup": "what\n0::\n", "sys/fs/cgroup/cpu.max": "two 0\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 0\n"}, 8),
    ],
)
def test_processors_of_a_container(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert policy.available_cpus(written(tmp_path, files)) == expected


def test_a_process_bound_to_some_processors_has_no_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert policy.available_cpus(tmp_path) == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert policy.available_cpus(tmp_path) == 1


def test_torch_takes_no_more_threads_than_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(policy, "available_cpus", lambda: 3)
    for threads, expected in ((16, 3), (2, 2)):
        torch.set_num_threads(threads)
        load_backbone(DEFAULT_CHECKPOINT)
        assert torch.get_num_threads() == expected
    torch.set_num_threads(5)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user's own word
    policy.use_threads(None)
    assert torch.get_num_threads() == 5


def test_the_number_of_threads_is_a_setting() -> None:
    assert load_agent(threads=3).backbone.device.type == "cpu"
    assert torch.get_num_threads() == 3
    for wrong in (0, -1, 1.5, True, "two", 5000):
        with pytest.raises(ConfigError, match=r"`threads` must be None or a whole number from 1 to 1024, but got"):
            VisionAgent.from_pretrained("default", threads=wrong)  # type: ignore[arg-type]
    assert torch.get_num_threads() == 3


def test_helpers_wait_briefly_unless_the_user_says_otherwise() -> None:
    """In a process of its own: OpenMP reads its settings once, when torch is imported."""
    program = "import vision_agent, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for changes, expected in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")):
        done = subprocess.run([sys.executable, "-c", program], env=env | changes, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the threads of Linux")
def test_threads_that_call_hold_no_helpers_beside_the_model(agent: VisionAgent) -> None:
    """With more helpers than processors OpenMP makes all of them wait asleep, the model's too."""
    agent.count("dog", PHOTO)
    counts = []

    def call() -> None:
        torch.set_num_threads(4)
        before = len(os.listdir("/proc/self/task"))
        torch.ones(1 << 21).sqrt()  # enough for all four
        counts.append(len(os.listdir("/proc/self/task")) - before)
        threads = {*os.listdir("/proc/self/task")}
        agent.count("dog", PHOTO)
        counts.append(len(threads - {*os.listdir("/proc/self/task")}))

    caller = Thread(target=call)
    caller.start()
    caller.join()
    assert counts == [3, 3]


def test_forgetting_gives_memory_back(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Library:
        malloc_trim = staticmethod(calls.append)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library)
    monkeypatch.setattr(sys, "platform", "linux")
    agent.clear_cache()
    assert calls == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # musl has no such function
    agent.clear_cache()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library)
    agent.clear_cache()
    assert calls == [0]
