#!/usr/bin/env bash
# Starts and looks after one machine's part of a cluster: `lorajax launch` of the environment beside this script, or the
# one on the path. All flags are passed on, for example: scripts/launch_host.sh --config cluster.toml --node-rank 1
set -euo pipefail
beside="$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/lorajax"
if [ -x "$beside" ]; then
    exec "$beside" launch "$@"
fi
exec lorajax launch "$@"
