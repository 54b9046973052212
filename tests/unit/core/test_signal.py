"""What samples add up to: validity, coverage, and the states of the permission table that need no memory."""

import pytest
from tests.builders import NOW, make_pods, make_sample, not_collected, seconds

from spillway.core.signal import Assessment, Collected, Liveness, SignalReason, SignalState, assess


def judge(
    *samples: object, pods: int | None = None, gpus: int = 1, high: float = 0.8, **over: object
) -> Assessment:
    """Assess pods of which the first ones have the given samples (a sample or a tuple of them; None is no series)."""
    found = make_pods(pods if pods is not None else len(samples))
    answer = {
        (pod.key.namespace, pod.key.name): sample if isinstance(sample, tuple) else (sample,)
        for pod, sample in zip(found, samples, strict=False)
        if sample is not None
    }
    keys = [((pod.key.namespace, pod.key.name), gpus) for pod in found]
    collection = Collected(at=NOW, pods=answer, **over)  # type: ignore[arg-type]
    return assess(collection, pods=keys, high=high, stale_after=seconds(75))


def test_every_pod_reporting_is_fresh() -> None:
    found = judge(make_sample(0.2), make_sample(0.6))

    assert (found.state, found.reason) == (SignalState.FRESH, SignalReason.FRESH)
    assert (found.mean, found.value_up, found.value_down) == pytest.approx((0.4, 0.4, 0.4))
    assert (found.coverage, found.oldest) == (1.0, seconds(5))


@pytest.mark.case("metrics-and-cost E41")
def test_a_missing_pod_counts_as_idle_for_going_up_and_as_busy_for_going_down() -> None:
    found = judge(*[make_sample(0.5)] * 9, None)

    assert found.state is SignalState.PARTIAL
    assert found.mean == pytest.approx(0.5)
    assert found.value_up == pytest.approx(0.45)
    assert found.value_down == pytest.approx(0.53)


@pytest.mark.parametrize(
    ("reporting", "state", "may_judge_up", "may_judge_down"),
    [
        pytest.param(10, SignalState.FRESH, True, True, id="all"),
        pytest.param(8, SignalState.PARTIAL, True, True, id="exactly four fifths"),
        pytest.param(7, SignalState.PARTIAL, True, False, id="under four fifths"),
        pytest.param(5, SignalState.PARTIAL, True, False, id="exactly half"),
        pytest.param(4, SignalState.LOW, False, False, id="under half"),
        pytest.param(0, SignalState.UNKNOWN, False, False, id="none"),
    ],
)
def test_coverage_decides_what_the_signal_may_judge(
    reporting: int, state: SignalState, *, may_judge_up: bool, may_judge_down: bool
) -> None:
    found = judge(*[make_sample(0.5)] * reporting, pods=10)

    assert found.state is state
    assert (found.value_up is not None, found.value_down is not None) == (may_judge_up, may_judge_down)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        pytest.param(None, SignalReason.MISSING, id="no series"),
        pytest.param(make_sample(0.5, age=76), SignalReason.STALE, id="older than the limit"),
        pytest.param(make_sample(None), SignalReason.STALE, id="none in the window, none rejected"),
        pytest.param(make_sample(0.5, liveness=Liveness.FLAT), SignalReason.FROZEN, id="energy stands still"),
    ],
)
@pytest.mark.case("workload-autoscalers D2")
@pytest.mark.case("workload-autoscalers D3")
@pytest.mark.case("workload-autoscalers D8")
@pytest.mark.case("metrics-and-cost E38")
@pytest.mark.case("metrics-and-cost E47")
def test_an_unusable_sample_is_unknown_with_its_reason_and_never_zero(
    sample: object, reason: SignalReason
) -> None:
    found = judge(sample)

    assert (found.state, found.reason) == (SignalState.UNKNOWN, reason)
    assert (found.mean, found.value_up, found.value_down) == (None, None, None)


def test_a_sample_without_a_timestamp_is_stale() -> None:
    sample = make_sample(0.5)
    undated = type(sample)(device=sample.device, mean=sample.mean, sampled_at=None, liveness=sample.liveness)

    assert judge(undated).reason is SignalReason.STALE


@pytest.mark.parametrize(
    "age",
    [pytest.param(75, id="exactly at the age limit"), pytest.param(-20, id="20 s in the future")],
)
@pytest.mark.case("workload-autoscalers D14")
def test_a_sample_within_the_age_limit_counts(age: float) -> None:
    assert judge(make_sample(0.5, age=age)).state is SignalState.FRESH


@pytest.mark.parametrize(
    "sample", [pytest.param(None, id="no series"), pytest.param(make_sample(None), id="no sample in range")]
)
def test_only_a_rejected_value_makes_a_pod_out_of_range(sample: object) -> None:
    pod = make_pods(1)[0]

    found = judge(sample, rejected={(pod.key.namespace, pod.key.name): 1})

    assert found.reason is SignalReason.OUT_OF_RANGE


@pytest.mark.case("workload-autoscalers D16")
@pytest.mark.parametrize(
    ("reporting", "state"),
    [
        pytest.param(7, SignalState.FRESH, id="7 of 8 GPUs"),
        pytest.param(4, SignalState.FRESH, id="half of the GPUs"),
        pytest.param(3, SignalState.UNKNOWN, id="3 of 8 GPUs"),
    ],
)
def test_a_pod_is_known_when_half_of_its_gpus_report(reporting: int, state: SignalState) -> None:
    samples = tuple(make_sample(0.5, device=f"gpu-{n}") for n in range(reporting))

    assert judge(samples, gpus=8).state is state


@pytest.mark.case("workload-autoscalers D3")
def test_one_bad_gpu_leaves_the_others_in_use() -> None:
    found = judge((make_sample(0.2), make_sample(None), make_sample(0.4), make_sample(0.6)), gpus=4)

    assert found.mean == pytest.approx(0.4)


@pytest.mark.case("workload-autoscalers D7")
@pytest.mark.case("metrics-and-cost E35")
def test_metrics_that_contradict_each_other_are_suspect() -> None:
    found = judge(make_sample(0.0, disagrees=True), make_sample(0.3))

    assert (found.state, found.reason) == (SignalState.SUSPECT, SignalReason.CONTRADICTORY)


def test_contradiction_does_not_make_up_for_missing_pods() -> None:
    found = judge(make_sample(1.0, disagrees=True), pods=4)

    assert found.state is SignalState.LOW
    assert found.value_up is None


def test_no_settled_pod_is_unknown_and_says_so() -> None:
    found = judge(pods=0)

    assert (found.state, found.reason) == (SignalState.UNKNOWN, SignalReason.NO_SETTLED_PODS)


@pytest.mark.parametrize(
    "reason",
    [
        SignalReason.PROMETHEUS_UNREACHABLE,
        SignalReason.PROMETHEUS_TIMEOUT,
        SignalReason.PROMETHEUS_ERROR,
        SignalReason.PROMETHEUS_PARTIAL,
        SignalReason.PROMETHEUS_UNAUTHORIZED,
        SignalReason.NOT_COLLECTED,
    ],
)
@pytest.mark.case("workload-autoscalers D1")
def test_a_failed_query_is_unknown_and_keeps_its_reason(reason: SignalReason) -> None:
    keys = [(("chat", "llm"), 1)]

    found = assess(not_collected(reason), pods=keys, high=0.8, stale_after=seconds(75))

    assert (found.state, found.reason) == (SignalState.UNKNOWN, reason)


def test_the_reason_of_most_pods_is_named() -> None:
    found = judge(make_sample(0.5, age=100), make_sample(0.5, age=100), None)

    assert found.reason is SignalReason.STALE


def test_all_alive_needs_a_rising_counter_on_every_gpu() -> None:
    alive, mute = make_sample(0.0), make_sample(0.0, liveness=Liveness.ABSENT)

    assert judge(alive, alive).all_alive
    assert not judge(alive, mute).all_alive


@pytest.mark.case("workload-autoscalers D17")
def test_one_wedged_pod_at_full_load_does_not_stand_for_all() -> None:
    found = judge(make_sample(1.0), make_sample(0.0), make_sample(0.0), make_sample(0.0))

    assert found.value_up == pytest.approx(0.25)
