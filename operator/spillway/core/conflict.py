"""Who else writes the same replicas: an HPA, a KEDA ScaledObject, a second GpuWorkload."""

from collections.abc import Iterable, Mapping

from spillway.core.model import ForeignAutoscaler, ObjectKey, Snapshot, Workload
from spillway.core.plan import ConflictReason, Finding


def find_conflicts(snapshot: Snapshot) -> Mapping[ObjectKey, Finding[ConflictReason]]:
    """Return the conflict of each workload that has one. Of two GpuWorkloads on one target the older goes on."""
    owners = first_on_target(snapshot.workloads)
    on_deployment = _by_target(snapshot.autoscalers, kind="Deployment")
    on_workload = _by_target(snapshot.autoscalers, kind="GpuWorkload")
    twins = {
        found.twin.workload_uid: key for key, found in snapshot.deployments.items() if found.twin is not None
    }
    found: dict[ObjectKey, Finding[ConflictReason]] = {}
    for workload in snapshot.workloads:
        owner = owners[workload.target_key]
        rival = on_deployment.get(workload.target_key) or on_deployment.get(twins.get(workload.uid, _NONE))
        driver = on_workload.get(workload.key)
        if rival is not None:
            found[workload.key] = _rival(rival)
        elif owner.uid != workload.uid:
            message = (
                f"GpuWorkload {owner.key.name} is older and scales {workload.target} already; "
                "this one writes nothing. Delete one of the two"
            )
            found[workload.key] = Finding(reason=ConflictReason.DUPLICATE_WORKLOAD, message=message)
        elif driver is not None and workload.replicas is None:
            found[workload.key] = _unset(driver, workload)
    return found


_NONE = ObjectKey("", "")


def stops_writing(conflict: Finding[ConflictReason] | None) -> bool:
    """Whether a conflict keeps Spillway from writing; an HPA on a GpuWorkload with `replicas` unset only does nothing yet."""
    return conflict is not None and conflict.reason is not ConflictReason.SCALE_UNSET


def first_on_target(workloads: Iterable[Workload]) -> Mapping[ObjectKey, Workload]:
    """Return for each Deployment the workload that it belongs to: the oldest that names it."""
    owners: dict[ObjectKey, Workload] = {}
    for workload in workloads:
        known = owners.setdefault(workload.target_key, workload)
        if (workload.created_at, workload.key) < (known.created_at, known.key):
            owners[workload.target_key] = workload
    return owners


def _by_target(
    autoscalers: tuple[ForeignAutoscaler, ...], *, kind: str
) -> Mapping[ObjectKey, ForeignAutoscaler]:
    return {ObjectKey(a.key.namespace, a.target): a for a in autoscalers if a.target_kind == kind}


def _rival(rival: ForeignAutoscaler) -> Finding[ConflictReason]:
    reason = ConflictReason.HPA_ON_TARGET
    if rival.kind == "ScaledObject":
        reason = ConflictReason.SCALED_OBJECT_ON_TARGET
    message = (
        f"{rival.kind} {rival.key.name} also scales Deployment {rival.target}; nothing is written while it exists. "
        f"Delete it, or point it at this GpuWorkload"
    )
    return Finding(reason=reason, message=message)


def _unset(driver: ForeignAutoscaler, workload: Workload) -> Finding[ConflictReason]:
    message = (
        f"{driver.kind} {driver.key.name} is to drive this GpuWorkload, but spec.replicas is unset, so it cannot. Set it once: "
        f"kubectl -n {workload.key.namespace} patch gpuworkload {workload.key.name} --type merge "
        f'-p \'{{"spec":{{"replicas":{workload.min_replicas}}}}}\''
    )
    return Finding(reason=ConflictReason.SCALE_UNSET, message=message)
