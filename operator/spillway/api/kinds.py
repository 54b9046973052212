"""Every kind of `spillway.dev/v1alpha1`, in the order of the field reference."""

from typing import Final

from spillway.api.nodepools import GPU_NODE_POOL
from spillway.api.v1alpha1 import GPU_POLICY, GPU_WORKLOAD

KINDS: Final = (GPU_WORKLOAD, GPU_POLICY, GPU_NODE_POOL)
