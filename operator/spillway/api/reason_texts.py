"""What every reason means and what a person should check. One word has one meaning, whichever condition carries it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from spillway.api.conditions import ConditionType


@dataclass(frozen=True, slots=True)
class ReasonText:
    """`meaning` is one sentence; `check` says where to look, and is empty where there is nothing to do."""

    meaning: str
    check: str = ""


CONDITION_TEXTS: Final[Mapping[ConditionType, str]] = MappingProxyType(
    {
        ConditionType.READY: "True when Spillway does what the object asks for; else the first trouble found.",
        ConditionType.METRICS_AVAILABLE: "True when the load can be seen well enough to act on it.",
        ConditionType.SCALING_ACTIVE: "True when decisions are written to the target.",
        ConditionType.SCALING_LIMITED: "True when a limit changed what the signal or the pin asked for.",
        ConditionType.CAPACITY_AVAILABLE: "True when the replicas asked for run or are about to; of a pool, when it takes more nodes.",
        ConditionType.BURST_ACTIVE: "True when replicas above the baseline run on spot; only of workloads with a burst.",
        ConditionType.FALLBACK_ACTIVE: "True while replicas on demand stand in for spot; only of workloads with a burst.",
        ConditionType.BASELINE_ISOLATED: "True when baseline replicas cannot land on spot nodes; only of workloads with a burst.",
        ConditionType.CONFLICT: "True when something else claims what this object claims.",
    }
)

REASON_TEXTS: Final[Mapping[str, ReasonText]] = MappingProxyType(
    {
        # Ready and ScalingActive
        "Operating": ReasonText("It is watched, decided and, where its mode allows, scaled."),
        "Accepted": ReasonText("The policy is valid and in use."),
        "Active": ReasonText("The signals move the count within the limits."),
        "Pinned": ReasonText(
            "spec.replicas fixes the count, within minReplicas and maxReplicas.",
            "Remove spec.replicas to give control back to the signals.",
        ),
        "Invalid": ReasonText(
            "The stored object breaks a rule; nothing is done with it.",
            "The message names the field, its legal values and the next step.",
        ),
        "PolicyNotFound": ReasonText(
            "policyRef names a GpuPolicy that does not exist or is invalid; nothing shrinks.",
            "`kubectl get gpupolicies`; correct spec.policyRef.name or create the policy.",
        ),
        "NamespaceTerminating": ReasonText("The namespace is being deleted; nothing is written."),
        "TargetNotFound": ReasonText(
            "The Deployment does not exist in this namespace.",
            "spec.targetRef.name, and that the Deployment is in the namespace of the GpuWorkload.",
        ),
        "InternalError": ReasonText(
            "Spillway itself failed on this workload; it is left alone and the others go on.",
            "The operator's log; report it with the message.",
        ),
        "TargetTerminating": ReasonText("The Deployment is being deleted; nothing is written."),
        "TargetRequestsNoGpu": ReasonText(
            "The Deployment's pods request no GPU, so no GPU activity can be theirs.",
            "resources.limits in the pod template, such as `nvidia.com/gpu: 1`.",
        ),
        "Conflict": ReasonText(
            "Something else scales the same target; nothing is written.",
            "The condition Conflict names the other object.",
        ),
        "MetricsUnavailable": ReasonText(
            "The load cannot be seen; the count holds.",
            "The condition MetricsAvailable says what is missing.",
        ),
        "CapacityUnavailable": ReasonText(
            "Replicas that were asked for do not serve.",
            "The condition CapacityAvailable carries the cluster's own message.",
        ),
        "Observed": ReasonText(
            "The pool's nodes are observed and priced, and Spillway asks for none and removes none.",
            "spec.mode of the pool and the operator's own mode, if the pool is to be sized.",
        ),
        "NoNodes": ReasonText(
            "No node has the labels that the pool selects; right for a pool that is scaled to nothing.",
            "`kubectl get nodes --show-labels` and spec.node.selector, if there should be some.",
        ),
        "PriceUnknown": ReasonText(
            "Nodes of the pool have no price, so what runs on them costs an unknown amount, which is not zero.",
            "spec.price.perNodeHour, or the node annotation spillway.dev/price-per-hour.",
        ),
        "PriceAnnotationInvalid": ReasonText(
            "The price annotation of a node cannot be read and is ignored; the pool's price is used where there is one.",
            "The annotation spillway.dev/price-per-hour of the node that the message names.",
        ),
        "PodsPartlySeen": ReasonText(
            "The operator watches some namespaces only, so which GPUs are free is unknown and no pool is sized.",
            "`watchNamespaces` in the operator's settings; costs of watched workloads are right in any case.",
        ),
        "Paused": ReasonText(
            "The annotation spillway.dev/paused holds the count.",
            "Remove the annotation, or set it to false, to go on.",
        ),
        "ObserveOnly": ReasonText(
            "Decisions are reported and nothing is written.",
            "spec.mode, the guardrail modes of the policies, the operator's own mode; `spillway explain` says which.",
        ),
        "ScaledToZero": ReasonText(
            "Somebody set the target to 0 replicas; Spillway leaves it there.",
            "`kubectl scale deployment` to 1 or more to go on.",
        ),
        # MetricsAvailable
        "MetricsFresh": ReasonText("The GPU activity of every settled pod is known and recent."),
        "MetricsPartial": ReasonText(
            "Some pods' activity is unknown; growth takes them as idle, shrinking as busy.",
            "dcgm-exporter on the nodes of the pods without metrics.",
        ),
        "MetricsLowCoverage": ReasonText(
            "Fewer than half of the settled pods report; the count holds.",
            "The dcgm-exporter pods and their scrape targets in Prometheus.",
        ),
        "MetricsStale": ReasonText(
            "The newest samples are older than the limit; the count holds.",
            "The dcgm-exporter target in Prometheus: is it up, how often is it scraped?",
        ),
        "MetricsFrozen": ReasonText(
            "Values arrive while the energy counters stand still: the exporter repeats old values. The count holds.",
            "Restart dcgm-exporter on the node; read its log.",
        ),
        "MetricsOutOfRange": ReasonText(
            "Samples are outside what the metric can be and are not used; the count holds.",
            "The raw value in Prometheus; relabelling that rescales it; the GPU itself, with nvidia-smi.",
        ),
        "MetricsMissing": ReasonText(
            "Prometheus has no GPU activity of these pods. Missing is not zero: the count holds.",
            "That dcgm-exporter runs on the GPU nodes and its series carry the pods' names and namespaces.",
        ),
        "MetricsContradictory": ReasonText(
            "One activity metric says busy and another says zero; nothing shrinks.",
            "Restart dcgm-exporter on the nodes concerned: its profiling fields stopped measuring.",
        ),
        "MetricsZeroAtOnce": ReasonText(
            "All pods fell to zero together after being busy; nothing shrinks until that is confirmed.",
            "Whether traffic really stopped; if not, the exporter.",
        ),
        "MetricsRecovering": ReasonText(
            "Metrics are back; collections in a row must agree before anything changes."
        ),
        "NoSettledPods": ReasonText(
            "No pod has been Ready for longer than readiness.settleSeconds, so there is nothing to measure.",
            "The condition CapacityAvailable, if this lasts.",
        ),
        "PrometheusUnreachable": ReasonText(
            "Prometheus cannot be reached; the count holds.",
            "`prometheus.url` in the operator's settings, DNS, network policies.",
        ),
        "PrometheusTimeout": ReasonText(
            "Prometheus did not answer in time; the count holds.",
            "The load of Prometheus; `prometheus.timeoutSeconds` in the operator's settings.",
        ),
        "PrometheusError": ReasonText(
            "Prometheus answered with an error, or something else answered; the count holds.",
            "The message; whether `prometheus.url` points at Prometheus itself and not at a login page.",
        ),
        "PrometheusPartialAnswer": ReasonText(
            "Prometheus says that its answer is incomplete, so it is not used; the count holds.",
            "The warning in the message; the stores behind Thanos or Mimir.",
        ),
        "PrometheusUnauthorized": ReasonText(
            "Prometheus refuses the operator's credentials; the count holds.",
            "`prometheus.bearerTokenFile` and `prometheus.tenant` in the operator's settings.",
        ),
        "NotCollectedYet": ReasonText("The operator has no answer from Prometheus yet; the count holds."),
        # ScalingLimited
        "NotLimited": ReasonText("No limit changed the count."),
        "NMinusOne": ReasonText(
            "With fewer replicas the rest would run above 90 % of highPercent, so they stay."
        ),
        "MetricsHold": ReasonText(
            "What is known of the load does not allow this move.", "The condition MetricsAvailable says why."
        ),
        "CircuitBreaker": ReasonText(
            "Many workloads lost their metrics at once, so nothing shrinks anywhere.",
            "Prometheus and dcgm-exporter for the whole cluster.",
        ),
        "SignalInelastic": ReasonText(
            "Replicas were added twice and the activity did not fall, so no more are added until it does.",
            "Whether requests are spread over all pods; a pod that is stuck at full activity.",
        ),
        "CapacityInFlight": ReasonText("Replicas that are on their way will cover the demand."),
        "CapacityExhausted": ReasonText(
            "No node took the pods for too long; their claim is released and growth waits before the next try.",
            "Free GPUs of the requested kind, taints, quota; the message says when the next try is.",
        ),
        "UpStepLimit": ReasonText(
            "Growth per 60 s is limited.", "scaleUp.maxIncreasePercent and scaleUp.maxIncreaseReplicas."
        ),
        "DownStepLimit": ReasonText(
            "Shrinking per 60 s is limited.",
            "scaleDown.maxDecreasePercent and scaleDown.maxDecreaseReplicas.",
        ),
        "Takeover": ReasonText(
            "The operator has just started or taken over and has not yet seen a full window."
        ),
        "UpWindow": ReasonText(
            "Activity has not been above highPercent for the whole window.", "scaleUp.windowSeconds."
        ),
        "DownWindow": ReasonText(
            "Within the window more replicas were needed than the last minute needs.",
            "scaleDown.windowSeconds.",
        ),
        "ForeignChange": ReasonText(
            "Somebody else changed the count; it is respected for a full window before anything is removed.",
            "The Deployment's managedFields tell who it was.",
        ),
        "UpCooldown": ReasonText("Replicas were removed a moment ago.", "scaleUp.cooldownSeconds."),
        "DownCooldown": ReasonText("Added replicas became Ready a moment ago.", "scaleDown.cooldownSeconds."),
        "RolloutInProgress": ReasonText(
            "A rollout runs: nothing is removed and growth goes step by step.", "`kubectl rollout status`."
        ),
        "RevisionBroken": ReasonText(
            "Pods of the current revision do not start, so more of them would not help.",
            "`kubectl describe pod` and the log of the pod that the message names.",
        ),
        "MinReplicas": ReasonText("minReplicas is the least."),
        "MaxReplicas": ReasonText("maxReplicas is the most.", "spec.maxReplicas, if the load stays high."),
        "GpuLimitWorkload": ReasonText(
            "A policy limits the GPUs of one workload.",
            "guardrails.maxGpusPerWorkload of the policy in `spillway explain`.",
        ),
        "GpuLimitNamespace": ReasonText(
            "A policy limits the GPUs of the namespace.",
            "guardrails.maxGpusPerNamespace of the policy in `spillway explain`; the namespace's other workloads.",
        ),
        "GpuModelForbidden": ReasonText(
            "No pool that a policy allows has the GPUs that the pods ask for, so nothing is added.",
            "guardrails.gpuModels of the policies in `spillway explain`; spec.node.gpuModel of the pools.",
        ),
        "ScaleUpOnly": ReasonText(
            "The mode in force never removes replicas.", "spec.mode and the policies' guardrails."
        ),
        # CapacityAvailable
        "AllScheduled": ReasonText("Every replica serves."),
        "Loading": ReasonText(
            "Pods start or load their model within readiness.loadGraceSeconds; they count as supply."
        ),
        "TargetUnknown": ReasonText(
            "Nothing is known of the target's pods.", "The condition Ready says why."
        ),
        "Unschedulable": ReasonText(
            "The scheduler finds no node for some pods.",
            "The scheduler's own message; free GPUs, taints, quota.",
        ),
        "ReplicaFailure": ReasonText(
            "The cluster refuses to create pods: a quota or an admission rule.",
            "The message; `kubectl describe replicaset` in the namespace.",
        ),
        "PodsBroken": ReasonText(
            "Some pods crash, cannot pull their image or exceed readiness.loadGraceSeconds.",
            "`kubectl describe pod` and the log of the pod that the message names.",
        ),
        "PackingRefused": ReasonText(
            "The scheduler leaves pods pending although Spillway found room for them; they are not packed there again until their "
            "template changes.",
            "The scheduler's own message: volumes, topology spread or pod affinity, which Spillway does not weigh.",
        ),
        # CapacityAvailable of a pool
        "Steady": ReasonText("The pool has the nodes that it needs."),
        "Growing": ReasonText("Nodes have been asked for."),
        "Shrinking": ReasonText(
            "Nodes that are no longer needed are emptied and removed, one step at a time."
        ),
        "Booting": ReasonText("Nodes are on their way and their GPUs cannot be used yet."),
        "AtMax": ReasonText(
            "The pool has maxNodes nodes.", "spec.maxNodes of the pool, if replicas wait for nodes."
        ),
        "AtMin": ReasonText("The pool has minNodes nodes, which stay."),
        "Refused": ReasonText(
            "The provider refuses nodes: no capacity, quota or permission. The pool is closed for a while.",
            "The provider's own words in status.lastRefusals; quota and permissions do not heal by waiting.",
        ),
        "Probing": ReasonText("One node is asked for, to see whether the pool can be used again."),
        "BreakerOpen": ReasonText(
            "Spot was taken back so often that the pool is closed for a while.",
            "status.breakerOpenUntil; spec.breaker of the pool; another zone or GPU model, if it recurs.",
        ),
        "ProviderUnavailable": ReasonText(
            "The provider cannot be asked, so the pool stays as it is.",
            "The message; the provider's address and credentials, such as `kwok.url` in the operator's settings.",
        ),
        "DrainBlocked": ReasonText(
            "A pod that may not be moved keeps a node that is no longer needed; it takes pods again.",
            "The pod in the message; drain.foreignPods of the pool; PodDisruptionBudgets.",
        ),
        "External": ReasonText("Somebody else sizes the pool, as its provider says."),
        "SharedNodes": ReasonText(
            "Another pool selects some of the same nodes, so neither is sized.",
            "spec.node.selector of both; the condition Conflict names the other.",
        ),
        # BurstActive
        "Bursting": ReasonText("Replicas above the baseline run on spot."),
        "PoolsChanged": ReasonText(
            "The spot pools have changed; burst pods use the new ones from the next rollout on, so that none restarts for it.",
            "`kubectl rollout restart` of the Deployment, to use them now.",
        ),
        "NoBurstNeeded": ReasonText("The baseline carries the load."),
        "BurstNever": ReasonText("capacity.burst is Never."),
        "SpotForbidden": ReasonText(
            "A policy forbids spot; replicas run on demand.",
            "guardrails.spot of the policy in `spillway explain`.",
        ),
        "NoSpotPool": ReasonText(
            "No spot pool that capacity.poolSelector and the guardrails allow takes these pods.",
            "`kubectl get gpunodepools --show-labels`; nodeSelector, affinity and requests of the pod template.",
        ),
        "TemplateCannotBurst": ReasonText(
            "A copy of the pod template could not run beside it.",
            "What the message names, such as a host port or a claim that one node alone may hold.",
        ),
        "TwinNameTaken": ReasonText(
            "A Deployment that is not Spillway's has the name that the Deployment on spot would get.",
            "Rename or delete the Deployment that the message names.",
        ),
        "TwinRefused": ReasonText(
            "The cluster refuses the Deployment on spot: an admission rule or a missing right.",
            "The message; the operator's roles.",
        ),
        "PodsNotCreated": ReasonText(
            "The cluster refuses to create pods on spot: a quota or an admission rule.",
            "The message; `kubectl describe replicaset` in the namespace.",
        ),
        "ModeForbids": ReasonText(
            "The mode in force does not allow what the burst needs; it stays as it is.",
            "spec.mode, the policies' guardrails and the operator's own mode.",
        ),
        # FallbackActive
        "NotNeeded": ReasonText("No replica stands in for spot."),
        "SpotRefused": ReasonText(
            "Spot nodes are refused, so replicas on demand stand in.",
            "status.lastRefusals of the pools in status.capacity.pools.",
        ),
        "PoolMax": ReasonText(
            "The spot pools are at maxNodes, so replicas on demand stand in.",
            "spec.maxNodes of the pools in status.capacity.pools.",
        ),
        "ProvisionTimeout": ReasonText(
            "No spot node came within capacity.fallback.provisionTimeoutSeconds, so replicas on demand stand in.",
            "Whoever makes the nodes; `kubectl get gpunodepools`.",
        ),
        "BootDeadline": ReasonText(
            "Spot nodes did not become usable within capacity.fallback.bootDeadlineSeconds, so replicas on demand stand in.",
            "The new nodes: driver, device plugin, images.",
        ),
        "Interrupted": ReasonText("Spot nodes were taken back, so replicas on demand stand in."),
        "Returning": ReasonText("Spot serves again; replicas that stood in go step by step."),
        "Waiting": ReasonText(
            "Spot is short and capacity.fallback.policy is Wait, so nothing stands in.",
            "capacity.fallback.policy, if load is missed meanwhile.",
        ),
        "BurstBroken": ReasonText(
            "Burst pods do not start for a reason that replicas on demand would meet too, so none stands in for them.",
            "`kubectl describe pod` and the log of the pod that the message names.",
        ),
        # BaselineIsolated
        "Isolated": ReasonText("Taints of the spot pools keep baseline replicas off them."),
        "SpotPoolUntainted": ReasonText(
            "A spot pool has no taint, so baseline replicas may land on it.",
            "spec.node.taints of the pool that the message names, and the taint on its nodes.",
        ),
        "BaselineToleratesSpot": ReasonText(
            "The pod template tolerates the taint of a spot pool, so baseline replicas may land there.",
            "tolerations of the pod template; Spillway adds them to burst pods by itself.",
        ),
        "BaselineOnSpot": ReasonText(
            "Baseline replicas run on spot nodes.",
            "Taint the spot pool, then move the pods that the message names by a rollout.",
        ),
        # Conflict
        "NoConflict": ReasonText("Nothing else claims it."),
        "HpaOnTarget": ReasonText(
            "A HorizontalPodAutoscaler scales the same Deployment; Spillway writes nothing.",
            "Delete the HPA, or point it at the GpuWorkload instead.",
        ),
        "ScaledObjectOnTarget": ReasonText(
            "A KEDA ScaledObject scales the same Deployment; Spillway writes nothing.",
            "Delete the ScaledObject, or point it at the GpuWorkload instead.",
        ),
        "DuplicateWorkload": ReasonText(
            "An older GpuWorkload scales the same Deployment; this one writes nothing.",
            "Delete one of the two; the message names the other.",
        ),
        "ScaleUnset": ReasonText(
            "An autoscaler points at this GpuWorkload, and cannot start because spec.replicas is unset.",
            "Set spec.replicas once; the autoscaler keeps it from then on.",
        ),
        "PoolConflict": ReasonText(
            "Another pool selects some of the same nodes; those belong to neither and have no pool price.",
            "spec.node.selector of both pools; the message names the other and counts the nodes.",
        ),
        "PolicyConflict": ReasonText(
            "Two policies claim the same namespace, or both are the cluster default; the oldest gives the defaults.",
            "Narrow one namespaceSelector or remove one `default: true`. The guardrails of both hold meanwhile.",
        ),
        # Decisions: what a proposal follows from
        "UtilizationHigh": ReasonText("Mean activity is above highPercent."),
        "UtilizationPegged": ReasonText(
            "Mean activity is at its ceiling, where it cannot tell how much is missing."
        ),
        "UtilizationLow": ReasonText("Mean activity is low enough for fewer replicas."),
        "WithinBand": ReasonText("Mean activity is within the band."),
        "PendingCancelled": ReasonText("Pods that no longer need to start are cancelled."),
        "PendingReleased": ReasonText(
            "Pods that found no node for too long give up their claim.", "The condition CapacityAvailable."
        ),
        "MetricsMissingFloor": ReasonText("The load has been unknown for whenMetricsMissing.afterSeconds."),
        "MetricsUnknown": ReasonText(
            "The load is unknown; the count holds.", "The condition MetricsAvailable."
        ),
        "NotDecided": ReasonText("There is nothing to decide, or the last change is still under way."),
    }
)
