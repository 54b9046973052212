#!/usr/bin/env bash
# Spillway on kind, for people with Docker: a cluster whose two workers pretend to have 8 GPUs each, the operator's image built
# from this checkout, and the chart. Run again to bring in changes. Away with it: kind delete cluster --name spillway
#
#   PROMETHEUS_URL=http://…   a Prometheus that pods can reach and that scrapes dcgm-exporter. Without one nothing shrinks or grows
#                             by itself, as the conditions say; a pinned count (kubectl scale gpuworkload) works all the same.
set -euo pipefail
cd "$(dirname "$0")/../.."

cluster=spillway
kubectl=(kubectl --context "kind-$cluster")
image=spillway:dev-$(git rev-parse --short HEAD)
prometheus_url=${PROMETHEUS_URL:-http://prometheus-operated.monitoring:9090}

for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || {
    echo "deploy/kind/up.sh needs $tool on PATH. make demo needs none of docker, kind, kubectl and helm." >&2
    exit 1
  }
done

kind get clusters | grep -qx "$cluster" || kind create cluster --config deploy/kind/kind.yaml --wait 120s

# kubelets keep an extended resource that is written into their node's status.
for node in $("${kubectl[@]}" get nodes --selector pool=pretended-gpus --output name); do
  "${kubectl[@]}" patch "$node" --subresource status --type json \
    --patch '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "8"}]'
done

docker build --file deploy/Dockerfile --tag "$image" .
kind load docker-image "$image" --name "$cluster"

helm upgrade --install spillway helm/spillway --kube-context "kind-$cluster" \
  --namespace spillway-system --create-namespace \
  --set image.repository="${image%%:*}" --set image.tag="${image#*:}" \
  --set settings.prometheus.url="$prometheus_url"

cat <<END

Ready. Next:
  kubectl config use-context kind-$cluster
  kubectl --namespace spillway-system rollout status deployment/spillway
  kubectl label namespace default spillway.dev/windows=short
  kubectl apply -f deploy/examples/gpupolicy-short-windows.yaml
  kubectl create deployment llm-chat --image=nginx --replicas=1
  kubectl set resources deployment llm-chat --limits=nvidia.com/gpu=1
  kubectl apply -f deploy/examples/gpuworkload.yaml
  kubectl get gpuworkloads --watch
END
