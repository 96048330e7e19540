"""Which ports of a host answer a caller who has no token and no password.

    python tests/faults_knock.py HOST PORT...   # a line for each answer

Each port is asked over HTTP, and over gRPC for what Ray's servers have. A refusal is no answer, nor
is gRPC's "I am alive", which tells nothing else.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException

import grpc

PAGES = ("/", "/metrics", "/api/version", "/api/jobs/", "/api/cluster_status", "/nodes")
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.ReporterService/GetTraceback",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
)


def knock(host: str, port: int) -> list[str]:
    found = []
    for page in PAGES:
        connection = HTTPConnection(host, port, timeout=2)
        try:
            connection.request("GET", page)
            answer = connection.getresponse()
            if answer.status < 400:
                found.append(f"{port}{page}: {answer.status} {answer.read(80)!r}")
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for call in CALLS:
            try:
                answer = channel.unary_unary(call)(b"", timeout=2)
                found.append(f"{port}{call}: {answer[:80]!r}")
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    break  # not gRPC
    return found


if __name__ == "__main__":
    for port in map(int, sys.argv[2:]):
        print(*knock(sys.argv[1], port), sep="\n", end="")
