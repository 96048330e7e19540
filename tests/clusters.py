"""A Ray of a test's own."""

from __future__ import annotations

from typing import Any

from ray.cluster_utils import Cluster


def started(**node: Any) -> Cluster:
    """A cluster of one node, without what starts no worker: the autoscaler and the reader of logs
    are 1.4 of the 8 s of processor time that Ray's start takes. In threads too, so the caller shuts
    it down."""
    lean = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
    return Cluster(True, head_node_args=lean | node, shutdown_at_exit=False)
