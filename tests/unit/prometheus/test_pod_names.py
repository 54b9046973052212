"""Whose pod a name tells of: a Deployment's own, its burst twin's, or somebody else's who is called nearly the same."""

import re

import pytest

from spillway.adapters.prometheus.pod_names import WorkloadPods

CHAT = WorkloadPods(namespace="team", deployment="llm-chat")
LONG = "a-model-with-a-name-that-goes-on-and-on-and-on-for-quite-long"


def is_own(pods: WorkloadPods, name: str) -> bool:
    return re.fullmatch(pods.pattern(), name) is not None


@pytest.mark.parametrize(
    ("name", "own"),
    [
        pytest.param("llm-chat-7d9f8c6b5-x2x4z", True, id="its own"),
        pytest.param("llm-chat-5d59d67564-bcdfg", True, id="a hash of ten characters"),
        pytest.param("llm-chat-burst-7d9f8c6b5-x2x4z", True, id="its burst twin's"),
        pytest.param("llm-chat-2-7d9f8c6b5-x2x4z", False, id="of the Deployment llm-chat-2"),
        pytest.param("llm-chat-burst-2-7d9f8c6b5-x2x4z", False, id="of the Deployment llm-chat-burst-2"),
        pytest.param("my-llm-chat-7d9f8c6b5-x2x4z", False, id="of the Deployment my-llm-chat"),
        pytest.param("llm-chat-4-x2x4z", False, id="of the Job llm-chat-4"),
        pytest.param("llm-chat-29384756-x2x4z", False, id="of a CronJob"),
        pytest.param("llm-chat-x2x4z", False, id="of a DaemonSet"),
        pytest.param("llm-chat-0", False, id="of a StatefulSet"),
        pytest.param("llm-chat-7d9f8c6b5-aeiou", False, id="an id with vowels"),
        pytest.param("llm-chat-7d9f8c6b5-x2x4zz", False, id="an id of six characters"),
    ],
)
def test_a_pods_name_tells_its_deployment(name: str, own: bool) -> None:
    assert is_own(CHAT, name) is own


def test_a_dot_in_a_name_is_no_wildcard() -> None:
    dotted = WorkloadPods(namespace="team", deployment="llm.chat")

    assert is_own(dotted, "llm.chat-7d9f8c6b5-x2x4z")
    assert not is_own(dotted, "llm-chat-7d9f8c6b5-x2x4z")


@pytest.mark.parametrize(
    ("pod", "is_burst"), [("llm-chat-burst-7d9f8c6b5-x2x4z", True), ("llm-chat-7d9f8c6b5-x2x4z", False)]
)
def test_the_twins_pods_are_told_apart(pod: str, is_burst: bool) -> None:
    assert (re.fullmatch(CHAT.burst_pattern(), pod) is not None) is is_burst


def test_of_a_long_name_what_the_api_server_leaves_of_it_is_matched() -> None:
    pods = WorkloadPods(namespace="team", deployment=LONG)

    assert is_own(pods, LONG[:58] + "x2x4z")
    assert is_own(WorkloadPods(namespace="team", deployment=LONG[:50]), LONG[:50] + "-7d9f8c6x2x4z")
    assert not is_own(pods, LONG[:57] + "8x2x4z")


def test_the_deployments_are_the_source_and_its_twin() -> None:
    assert CHAT.deployments == ("llm-chat", "llm-chat-burst")
    assert re.fullmatch(CHAT.deployment_pattern(), "llm-chat-burst")
    assert not re.fullmatch(CHAT.deployment_pattern(), "llm-chat-2")
