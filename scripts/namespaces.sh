#!/usr/bin/env bash
# Three network namespaces as three machines, and a real partition between them: what a cluster does when the link of
# one goes down and comes back. Needs root and iproute2; leaves nothing behind. Flags are passed on:
#   scripts/namespaces.sh --down-s 10
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
hub=lorajax-hub
nodes=(lorajax0 lorajax1 lorajax2)

skip() {
    echo "skipped: $1"
    exit 0
}
if [ "$(id -u)" != 0 ]; then skip "network namespaces need root"; fi
for tool in ip unshare mount; do
    if ! command -v "$tool" >/dev/null; then skip "$tool is not installed (Debian: iproute2, util-linux)"; fi
done
if ! ip netns add "$hub" 2>/dev/null; then
    skip "network namespaces cannot be made here, or $hub is left of another run (ip netns del $hub)"
fi
clean() {
    for name in "$hub" "${nodes[@]}"; do ip netns del "$name" 2>/dev/null || true; done
}
trap clean EXIT

ip netns exec "$hub" ip link add bridge type bridge 2>/dev/null || skip "the kernel has no bridges"
ip netns exec "$hub" ip link set bridge up
for number in "${!nodes[@]}"; do
    node="${nodes[$number]}"
    ip netns add "$node"
    ip netns exec "$node" ip link set lo up
    ip -n "$hub" link add "port$number" type veth peer name eth0 netns "$node"
    ip -n "$hub" link set "port$number" master bridge up
    ip -n "$node" addr add "10.77.0.$((number + 1))/24" dev eth0
    ip -n "$node" link set eth0 up
done
cd "$root"
python="$root/.venv/bin/python"
ip netns exec "${nodes[0]}" "${PYTHON:-$python}" -m benchmarks partition "$@"
