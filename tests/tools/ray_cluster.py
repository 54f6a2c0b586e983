"""A Ray cluster of two nodes with one CPU each, on this machine: its address goes to standard output as a line of
JSON, and it stands until standard input ends. Run by the fixture `ray_cluster`, which gives the folder and the
environment: Ray has to find both before it is imported.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

STORE_BYTES = 100 * 1024 * 1024  # less than this a node refuses


def main() -> None:
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        print(json.dumps({"address": cluster.address}), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
