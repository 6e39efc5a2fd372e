"""Jobs in a Kubernetes cluster: one Job and one Secret each, watched through the official client."""

from zcell.launch.kubernetes.launcher import KubernetesLauncher

__all__ = ["KubernetesLauncher"]
