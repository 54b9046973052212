"""How much of each resource a pod takes and a node offers, as the scheduler counts."""

from typing import Any

import pytest

from spillway.adapters.kube.set_aside import offered, set_aside

Raw = dict[str, Any]


def container(**gpus: int) -> Raw:
    names = {"nvidia": "nvidia.com/gpu", "mig": "nvidia.com/mig-1g.5gb", "amd": "amd.com/gpu"}
    return {"resources": {"requests": {names[name]: str(amount) for name, amount in gpus.items()}}}


@pytest.mark.case("metrics-and-cost E77")
@pytest.mark.parametrize(
    ("init", "main", "expected"),
    [
        pytest.param([], [container(nvidia=2), container(nvidia=1)], 3, id="containers add up"),
        pytest.param([container(nvidia=4)], [container(nvidia=1)], 4, id="a larger init container rules"),
        pytest.param([container(nvidia=1)], [container(nvidia=4)], 4, id="a smaller one does not"),
        pytest.param(
            [container(nvidia=1) | {"restartPolicy": "Always"}], [container(nvidia=4)], 5, id="a sidecar stays"
        ),
        pytest.param(
            [container(nvidia=1) | {"restartPolicy": "Always"}, container(nvidia=6)],
            [container(nvidia=4)],
            7,
            id="an init container runs beside an earlier sidecar",
        ),
        pytest.param([], [container(mig=2, nvidia=1)], 3, id="slices count like GPUs"),
        pytest.param([], [container(amd=8)], 8, id="AMD"),
        pytest.param([], [{"resources": {"limits": {"nvidia.com/gpu": 2}}}], 2, id="limits alone, as a number"),
        pytest.param([], [{"resources": {"requests": {"cpu": "500m"}}}], 0, id="no GPU at all"),
        pytest.param([], [{}], 0, id="no resources"),
    ],
)  # fmt: skip
def test_gpus_are_what_the_scheduler_sets_aside(init: list[Raw], main: list[Raw], expected: int) -> None:
    assert set_aside({"initContainers": init, "containers": main}).gpus == expected


@pytest.mark.case("metrics-and-cost E77")
def test_each_device_is_set_aside_by_its_own_larger_phase() -> None:
    wanted = set_aside({"initContainers": [container(nvidia=1)], "containers": [container(mig=1, nvidia=0)]})

    assert wanted.devices == {"nvidia.com/gpu": 1, "nvidia.com/mig-1g.5gb": 1}


@pytest.mark.parametrize(
    ("resource", "quantity", "expected"),
    [
        ("cpu", "500m", 500),
        ("cpu", "1.5", 1500),
        ("cpu", "2", 2000),
        ("cpu", "1u", 1),
        ("memory", "128974848", 128_974_848),
        ("memory", "1.5Gi", 1_610_612_736),
        ("memory", "2Ti", 2_199_023_255_552),
        ("memory", "1Ei", 1_152_921_504_606_846_976),
        ("memory", "123M", 123_000_000),
        ("memory", "1E", 1_000_000_000_000_000_000),
        ("memory", "129e6", 129_000_000),
        ("memory", "1E3", 1000),
        ("memory", "100m", 1),
        ("ephemeral-storage", "10Ki", 10_240),
        ("hugepages-2Mi", "4Mi", 4_194_304),
        ("example.com/fuse", "1k", 1000),
    ],
)
def test_a_quantity_is_read_in_the_units_of_the_core(resource: str, quantity: str, expected: int) -> None:
    taken = set_aside({"containers": [{"resources": {"requests": {resource: quantity}}}]})

    assert taken.amounts == {resource: expected, "pods": 1}


def test_what_a_pod_asks_is_rounded_up_and_what_a_node_offers_down() -> None:
    amounts = {"cpu": "1.0005", "memory": "1500m"}

    taken = set_aside({"containers": [{"resources": {"requests": amounts}}]})

    assert taken.amounts == {"cpu": 1001, "memory": 2, "pods": 1}
    assert offered(amounts) == {"cpu": 1000, "memory": 1}


def test_a_quantity_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="many"):
        set_aside({"containers": [{"resources": {"requests": {"cpu": "many"}}}]})


def test_overhead_comes_on_top_of_the_containers() -> None:
    taken = set_aside(
        {
            "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
            "overhead": {"cpu": "250m", "memory": "120Mi"},
        }
    )

    assert taken.amounts == {"cpu": 1250, "memory": 1_199_570_944, "pods": 1}


def test_what_is_stated_for_the_whole_pod_goes_before_the_sum_of_its_containers() -> None:
    taken = set_aside(
        {
            "containers": [{"resources": {"requests": {"cpu": "1", "nvidia.com/gpu": "2"}}}],
            "resources": {"requests": {"cpu": "4"}},
        }
    )

    assert taken.amounts == {"cpu": 4000, "nvidia.com/gpu": 2, "pods": 1}


def test_memory_of_init_containers_and_sidecars_counts_like_their_gpus() -> None:
    taken = set_aside(
        {
            "initContainers": [
                {"resources": {"requests": {"memory": "1Gi"}}, "restartPolicy": "Always"},
                {"resources": {"requests": {"memory": "6Gi"}}},
            ],
            "containers": [{"resources": {"requests": {"memory": "4Gi"}}}],
        }
    )

    assert taken.amounts == {"memory": 7 * 2**30, "pods": 1}


def test_a_device_of_which_a_node_has_none_is_said_and_not_unknown() -> None:
    assert offered({"nvidia.com/gpu": "0", "pods": "110"}) == {"nvidia.com/gpu": 0, "pods": 110}


@pytest.mark.case("node-and-spot E78")
@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/gpu.shared"])
def test_a_time_slice_is_scheduled_like_a_gpu_under_either_name(resource: str) -> None:
    assert set_aside({"containers": [{"resources": {"limits": {resource: "1"}}}]}).gpus == 1
